"""Gathers what `yard doctor` judges of the Slurm that this machine hands jobs to."""

import os
import shutil
from dataclasses import dataclass
from urllib.parse import urlsplit

from gpu_pools.names import host_name
from gpu_pools.slurm.commands import Slurm, SlurmAwayError, SlurmRefusedError, config_file
from gpu_pools.slurm.request import HOST

_LOOPBACK = {"127.0.0.1", "localhost", "::1"}


@dataclass(frozen=True, slots=True)
class SlurmFacts:
    """Slurm as far as it matters here; a machine without any of it has none of these.

    Args:
        missing: of its commands.
        config: the file of its configuration; empty: none is found.
        fault: why it takes no runs from here; empty: it does.
        nodes: short names of its nodes.
        n_gpus: that its nodes have in all.
        down: names of the nodes that take no jobs.
        api: of Prefect, as jobs would ask it; empty: one that every node reaches, as far as can be told here.
    """

    missing: tuple[str, ...]
    config: str
    fault: str = ""
    nodes: tuple[str, ...] = ()
    n_gpus: int = 0
    down: tuple[str, ...] = ()
    api: str = ""


def slurm_facts() -> SlurmFacts | None:
    """Return what there is of Slurm; None: nothing, neither commands nor a configuration."""
    missing = tuple(name for name in ("sbatch", "squeue", "scancel", "sinfo") if shutil.which(name) is None)
    config = config_file()
    if missing or not config:
        return SlurmFacts(missing, config) if config or not missing else None
    if host_name() == HOST:
        return SlurmFacts(
            (), config, f"this host is called {HOST!r}, as the cluster's queues are: give it another name"
        )
    try:
        nodes = Slurm().nodes()
    except (SlurmAwayError, SlurmRefusedError) as exc:
        return SlurmFacts((), config, f"does not answer: {exc}")
    return SlurmFacts(
        *((), config, ""),
        nodes=tuple(node.name for node in nodes),
        n_gpus=sum(node.n_gpus for node in nodes),
        down=tuple(node.name for node in nodes if not node.up),
        api=_unreachable_api([node.name for node in nodes]),
    )


def _unreachable_api(nodes: list[str]) -> str:
    """Return the address of Prefect where it is this machine's own and a node is another machine."""
    url = os.environ.get("PREFECT_API_URL", "http://127.0.0.1")
    own = urlsplit(url).hostname in _LOOPBACK
    return url if own and any(node != host_name() for node in nodes) else ""
