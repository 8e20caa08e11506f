"""The Prefect task of a host that takes part in a training of another one."""

from prefect import task
from prefect.cache_policies import NO_CACHE


@task(task_run_name="share", cache_policy=NO_CACHE)
def take_part(run_id: str, number: str) -> str:
    """Compute this host's share of a run's training; return "", or why it has ended before its end."""
    from tasks.training.parallel.member import take_part

    return take_part(run_id, number)
