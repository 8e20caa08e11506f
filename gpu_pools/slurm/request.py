"""What a run asks of Slurm: GPUs, CPUs, memory, time and partition, as words for sbatch."""

import math
import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gpu_pools.placement.queues import SLURM, Queue
from tasks.base.errors import ConfigError

HOST = SLURM
"""What stands for the cluster where other devices have their host: `slurm/cuda` is any GPU that Slurm gives."""

ON = "on"
"""The job variable of a pipeline whose stages go to another engine: slurm, kubernetes."""

ROOM_S = 300.0
"""What Slurm is asked for beyond a run's own time limit: to start its process, and to save its state at the end."""

_NAME = r"[A-Za-z0-9][A-Za-z0-9_.,@+-]{0,99}"
_Word = Annotated[str, Field(pattern=f"^{_NAME}$")]


class SlurmRequest(BaseModel):
    """The job variables of a run that count on Slurm; what is None is left to Slurm's own defaults."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    cpus: int | None = Field(default=None, ge=1, le=1024, description="On Slurm: cores of the run's job.")
    memory: str | None = Field(
        default=None, pattern=r"^[1-9][0-9]{0,6}[MGT]$", description="On Slurm: memory of the run's job: 16G, 500M."
    )
    gpu_type: _Word | None = Field(default=None, description="On Slurm: kind of GPU, as its gres.conf calls it.")
    partition: _Word | None = Field(default=None, description="On Slurm: its partition, or several with commas.")
    account: _Word | None = Field(default=None, description="On Slurm: the account that pays.")
    qos: _Word | None = Field(default=None, description="On Slurm: its quality of service.")
    constraint: str | None = Field(
        default=None, pattern=r"^[A-Za-z0-9_.&|!()\[\]*-]{1,200}$", description="On Slurm: features of the node."
    )


FIELDS = tuple(SlurmRequest.model_fields)
"""The job variables that count on Slurm alone; stages inherit them from their pipeline."""


def request_of(variables: Mapping[str, Any]) -> SlurmRequest:
    """Return what the job variables of a run ask of Slurm.

    Raises:
        ConfigError: a value is out of its bounds; names it.
    """
    try:
        return SlurmRequest.model_validate(dict(variables))
    except ValidationError as exc:
        first = exc.errors()[0]
        raise ConfigError(f"{first['loc'][0]}: found {first['input']!r:.60}: {first['msg']}") from exc


def sbatch_options(asked: SlurmRequest, queue: Queue, n_gpus: int, limit_s: float | None) -> list[str]:
    """Return the options of sbatch by which it gives a run what it asks for.

    Args:
        asked: from `request_of`.
        queue: of the run: one of the CPU gets no GPU.
        n_gpus: that a run on a GPU computes on.
        limit_s: what is left of the run's time limit, seconds; None: as long as the partition lets it.
    """
    options = ["--nodes=1", "--ntasks=1"]
    if queue.device != "cpu":
        kind = f"{asked.gpu_type}:" if asked.gpu_type else ""
        options.append(f"--gres=gpu:{kind}{n_gpus}")
    named = {"cpus-per-task": asked.cpus, "mem": asked.memory, "partition": asked.partition}
    named |= {"account": asked.account, "qos": asked.qos, "constraint": asked.constraint}
    options += [f"--{name}={value}" for name, value in named.items() if value is not None]
    if limit_s is not None:
        options.append(f"--time={math.ceil((limit_s + ROOM_S) / 60)}")
    return options


def job_name(run_name: str) -> str:
    """Return a run's name as squeue shows it: letters, digits and what separates them, 60 characters at most."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", run_name)[:60].strip("_.-") or "run"
