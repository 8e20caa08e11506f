"""Where the processes of a training on several hosts meet: a file in the folder of its run."""

import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from tasks.base.workspace import run_dir, storage_errors

FILE = "meeting.json"

BEAT, ENDED, LEAVES, LEFT, DONE, TAGS = "beat", "ended", "leaves", "left", "done", "tags"
"""What hosts tell in the store, followed by their name, or by the rank: that they are there, that a process has ended,
that they have to leave soon, that they leave now, and why; that all of theirs has come to its end; their devices."""

OVER, PROGRESS = "over", "progress"
"""What the first process tells: that it has come to its end, and how far it is, for those who wait for their GPUs."""

BEAT_S = 0.5
SILENT_S = 30.0
"""Who has not been heard of for so long is gone: the host has died, or is cut off."""

MEET_S = 120.0
"""So long hosts wait for one another that have their devices: a process starts in some seconds."""


@dataclass(frozen=True, slots=True)
class Meeting:
    """What the first process of a training tells those of other hosts.

    Args:
        number: of this meeting; each start of a run has another one.
        address, port, token: of the store that the first process serves; the token is a secret.
        size: of all processes.
        n_local: of each host.
        hosts: the others, in the order of their ranks.
        device: `cuda` or `cpu`.
        task: how a process opens the training; see `tasks.training.parallel.helper`.
    """

    number: str
    address: str
    port: int
    token: str
    size: int
    n_local: int
    hosts: tuple[str, ...]
    device: str
    task: Mapping[str, Any]

    @property
    def store(self) -> dict[str, Any]:
        """Return where the store is, for `rendezvous.reach_store`."""
        return {"address": self.address, "port": self.port, "token": self.token}

    def ranks_of(self, host: str) -> range:
        """Return the ranks of the processes of another host."""
        first = self.n_local * (1 + self.hosts.index(host))
        return range(first, first + self.n_local)

    def write(self, run_id: str) -> None:
        """Leave it in the folder of a run, for the yard's user alone."""
        path = run_dir(run_id) / FILE
        with storage_errors(path):
            fd, name = tempfile.mkstemp(prefix=f".{FILE}.", dir=path.parent)  # of mode 0600
            with os.fdopen(fd, "w") as file:
                json.dump(asdict(self), file)
            os.replace(name, path)

    @classmethod
    def read(cls, run_id: str, number: str) -> Self | None:
        """Return the meeting of this number, once the run has left it in its folder."""
        try:
            found = json.loads((run_dir(run_id) / FILE).read_text())
        except FileNotFoundError:
            return None
        if found["number"] != number:
            return None
        return cls(**{**found, "hosts": tuple(found["hosts"])})


def forget(run_id: str) -> None:
    """Remove what a run has left for others."""
    (run_dir(run_id) / FILE).unlink(missing_ok=True)
