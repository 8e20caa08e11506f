"""The states of Slurm's jobs, as squeue lists them, and what they mean for a run."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

FORMAT: Final = "%i|%T|%r|%N|%S|%k"
"""What squeue is asked for: id, state, reason, nodes, (expected) start, comment."""

NODE_FORMAT: Final = "%n|%G|%T"
"""What sinfo is asked for: host, generic resources, state."""

_ENDED: Final = frozenset(
    {
        *("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "DEADLINE", "PREEMPTED"),
        *("NODE_FAIL", "BOOT_FAIL", "OUT_OF_MEMORY", "REVOKED"),
    }
)
_QUEUED: Final = frozenset({"PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "RESV_DEL_HOLD"})

TAKEN_BACK: Final = frozenset({"PREEMPTED", "NODE_FAIL", "BOOT_FAIL", "REVOKED"})
"""How a job ends that is not to blame for it."""

OUT_OF_TIME: Final = frozenset({"TIMEOUT", "DEADLINE"})

_REASONS: Final = {
    "Resources": "waits until enough GPUs, cores or memory are free",
    "Priority": "waits for jobs that go before it",
    "Dependency": "waits for another job",
    "BeginTime": "waits for its time: Slurm lets a job that was requeued rest for a while",
    "JobHeldUser": "is held by its user: `scontrol release` lets it go",
    "JobHeldAdmin": "is held by an administrator",
    "JobRequeueHold": "was requeued and is held: `scontrol release` lets it go",
    "ReqNodeNotAvail": "waits for nodes that are down, drained or reserved",
    "Reservation": "waits for its reservation",
    "PartitionDown": "waits: its partition is down",
    "PartitionInactive": "waits: its partition starts nothing",
    "PartitionNodeLimit": "asks for more nodes than its partition gives",
    "PartitionTimeLimit": "asks for more time than its partition gives",
    "PartitionConfig": "asks for more than a node of its partition has",
    "BadConstraints": "asks for what no node has",
    "NodeDown": "waits: its node is down",
    "Licenses": "waits for a licence",
    "launch failed requeued held": "did not start on its node and is held: `scontrol release` lets it go",
}


@dataclass(frozen=True, slots=True)
class Job:
    """A job as Slurm has it.

    Args:
        id: its number.
        state: PENDING, RUNNING, TIMEOUT ...
        reason: why it waits, in Slurm's word; empty for none.
        nodes: where it runs or ran.
        start: when it started or is expected to, local time; None where Slurm does not know.
        comment: says whose it is.
    """

    id: str
    state: str
    reason: str
    nodes: str
    start: datetime | None
    comment: str

    @property
    def waits(self) -> bool:
        """Whether it has not started, or not yet again."""
        return self.state in _QUEUED

    @property
    def over(self) -> bool:
        """Whether no process of it is left, and none will come."""
        return self.state in _ENDED


def parse_jobs(lines: Iterable[str]) -> list[Job]:
    """Return the jobs in what squeue prints with `FORMAT`; lines that are none are passed over."""
    jobs = []
    for line in lines:
        parts = line.rstrip("\n").split("|", 5)
        if len(parts) == 6 and parts[0].isdigit():
            number, state, reason, nodes, start, comment = parts
            jobs.append(Job(number, state, "" if reason == "None" else reason, nodes, _time(start), comment))
    return jobs


def _time(text: str) -> datetime | None:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return None  # N/A


@dataclass(frozen=True, slots=True)
class Node:
    """A node as Slurm has it: its short name, how many GPUs it has, and whether it takes jobs."""

    name: str
    n_gpus: int
    up: bool


def parse_nodes(lines: Iterable[str]) -> list[Node]:
    """Return the nodes in what sinfo prints with `NODE_FORMAT`, each once."""
    found: dict[str, Node] = {}
    for line in lines:
        parts = line.strip().split("|")
        if len(parts) == 3:
            name, gres, state = parts
            short = name.partition(".")[0]
            found[short] = Node(short, _gpus(gres), not re.match(r"down|drain|fail|unknown|maint|inval", state))
    return list(found.values())


def _gpus(gres: str) -> int:
    """Return how many GPUs `gpu:a100:4(S:0-1),gpu:2,shard:8` are."""
    kinds = [kind.split(":") for kind in re.sub(r"\([^)]*\)", "", gres).split(",")]
    return sum(int(words[-1]) for words in kinds if words[0] == "gpu" and words[-1].isdecimal())


def sentence(job: Job) -> str:
    """Return why a run waits whose job Slurm has not started yet, or is just starting."""
    if not job.waits:
        return f"Slurm job {job.id} starts on {job.nodes or 'its node'}"
    if not job.reason:
        return f"Slurm job {job.id} was handed over; Slurm has not looked at it yet"
    when = f", expected at {job.start:%Y-%m-%d %H:%M}" if job.start and job.reason in ("Resources", "Priority") else ""
    return f"Slurm job {job.id} {_why(job.reason)} ({job.reason}){when}"


def _why(reason: str) -> str:
    if known := _REASONS.get(reason.partition(",")[0]):
        return known
    if reason.startswith(("QOS", "Assoc")):
        return "waits at a limit of its user, account or QOS"
    return "waits"
