"""Says whether a host can be one of those on which a run starts that needs several."""

from collections.abc import Mapping

from gpu_pools.hosts.offers import hosts_text
from gpu_pools.placement.order import Waiting
from gpu_pools.placement.place import Decision, Refuse, Wait


def against_team(run: Waiting, gpus: Mapping[str, tuple[int, bool]], *, share_a_disk: bool) -> Decision | None:
    """Return why a run cannot start on as many hosts as it needs, now or ever; None: there are enough.

    Args:
        run: needs several hosts.
        gpus: of each host how many it has, and whether it is online.
        share_a_disk: all hosts have the same home; else those of a run would not find each other.
    """
    if not share_a_disk:
        return Refuse(
            run.run_id, f"found hosts that share no disk, need a home that all share for n_hosts {run.n_hosts}"
        )
    if run.queue.host is not None or run.queue.pinned:
        return Refuse(run.run_id, f"found device {run.queue.label} for n_hosts {run.n_hosts}, need cuda")
    able = able_hosts(run, gpus)
    here = [host for host in able if gpus[host][1]]
    if len(able) < run.n_hosts:
        have = ", ".join(f"{n} on {host}" for host, (n, _) in sorted(gpus.items()) if n) or "none"
        text = f"found GPUs: {have}; need {hosts_text(run.n_hosts, run.n_devices)} for n_hosts {run.n_hosts}"
        return Refuse(run.run_id, text)
    if len(here) < run.n_hosts:
        away = ", ".join(host for host in able if host not in here)
        needs = f"needs {hosts_text(run.n_hosts, run.n_devices)}, online: {', '.join(here) or 'none'}"
        return Wait(run.run_id, f"{needs}; waits for a worker on {away}")
    return None


def able_hosts(run: Waiting, gpus: Mapping[str, tuple[int, bool]]) -> list[str]:
    """Return the hosts that have as many GPUs as a run needs of each, by name."""
    return sorted(host for host, (n, _) in gpus.items() if n >= run.n_devices)
