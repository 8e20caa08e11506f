"""What the first process of a training knows of the processes on other hosts, and tells them."""

import json
import os
import secrets
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from gpu_pools.hosts.address import interface_of, own_address
from gpu_pools.names import host_name
from gpu_pools.placement.queues import device_tags
from gpu_pools.process.run_process import MARK
from gpu_pools.process.run_setup import ON, read_meeting
from gpu_pools.slots.lease import SlotProgress, own_holder
from gpu_pools.stopping import pause
from tasks.base.errors import ConfigError
from tasks.training.parallel import meeting
from tasks.training.parallel.meeting import Meeting
from tasks.training.parallel.rendezvous import reach_store, serve_store

_POLL_S = 0.2
_FRESH_S = 5.0  # who was heard of so lately is there


class OtherHosts:
    """The other hosts of a training, from the moment their workers were asked to take part.

    Args:
        task: how a process opens the training.
        size: how many processes there are.
        n_local: of each host.
        device: `cuda` or `cpu`.

    Raises:
        ConfigError: this run was not placed on several hosts, or has no address that they reach.
    """

    def __init__(self, task: Mapping[str, Any], size: int, n_local: int, device: str) -> None:
        number, self.names = read_meeting()
        if len(self.names) + 1 != size // n_local:
            raise ConfigError(
                f"found a run on {len(self.names) + 1} of {size // n_local} hosts: `yard submit` places a run on "
                "several hosts, `yard run` computes on this one"
            )
        self._run_id = os.environ[MARK]
        address = own_address(self.names)
        self.interface = interface_of(address)
        self._served, port = serve_store(address)  # ends when nobody refers to it
        self.meeting = Meeting(
            *(number, address, port, secrets.token_hex(16), size, n_local, self.names, device),
            task=task,
        )
        self.store = reach_store(self.meeting.store)
        self._watching = reach_store(self.meeting.store)  # of its own: another call may wait in the first one for long
        self.meeting.write(self._run_id)
        self._heard: dict[str, tuple[int, float]] = {}
        self._told: SlotProgress | None = None

    def arrived(self) -> bool:
        """Wait until all hosts are there; return whether they are, after two minutes at most.

        Raises:
            Interrupted: a signal has come.
        """
        until = time.monotonic() + meeting.MEET_S
        while self.missing():
            if time.monotonic() > until:
                return False
            pause(_POLL_S)
        return True

    def missing(self) -> list[str]:
        """Return the hosts that have not been heard of."""
        return [name for name in self.names if not self._beats(name)]

    def _beats(self, name: str) -> int:
        return int(self._watching.add(f"{meeting.BEAT}{name}", 0))

    def ended(self) -> dict[int, int]:
        """Return the exit codes of those processes that have ended otherwise than well, by rank."""
        found = {}
        for name in self.names:
            for rank in self.meeting.ranks_of(name):
                if self._watching.check([f"{meeting.ENDED}{rank}"]):
                    found[rank] = int(self._watching.get(f"{meeting.ENDED}{rank}"))
        return found

    def lost(self, silent_s: float = meeting.SILENT_S) -> Iterator[str]:
        """Yield of each host that has left, or has not been heard of for so many seconds, what is to be said of it."""
        now = time.monotonic()
        for name in self.names:
            if self._watching.check([f"{meeting.LEFT}{name}"]):
                yield f"{name} has left: {self._watching.get(f'{meeting.LEFT}{name}').decode()}"
            elif not self._watching.check([f"{meeting.DONE}{name}"]):
                beats = self._beats(name)
                before, since = self._heard.get(name, (-1, now))
                self._heard[name] = (beats, since if beats == before else now)
                if now - self._heard[name][1] > silent_s:
                    yield f"{name} has not been heard of for {now - self._heard[name][1]:.0f} s"

    def leaving(self) -> str:
        """Return which hosts have to leave soon, in a sentence; "": none."""
        names = [name for name in self.names if self._watching.check([f"{meeting.LEAVES}{name}"])]
        return f"the worker of {' and '.join(names)} stops" if names else ""

    def silent_lately(self) -> Iterator[str]:
        """Yield what is to be said of hosts that were not heard of in the last seconds, in which their ranks failed."""
        return self.lost(_FRESH_S)

    def tell_progress(self) -> None:
        """Tell the others how far the run is, as it says on its own slot.

        Raises:
            StorageError: the slot's record cannot be read.
        """
        holder = own_holder()
        if holder is not None and holder.progress is not None and holder.progress != self._told:
            self._told = holder.progress
            self._watching.set(meeting.PROGRESS, json.dumps(asdict(holder.progress)))

    def name_of(self, rank: int) -> str:
        """Return the host and the device of a process: boxb/cuda:1."""
        n = self.meeting.n_local
        if rank < n:
            host, tags = host_name(), os.environ.get(ON, "")
        else:
            host = self.names[rank // n - 1]
            known = self._watching.check([f"{meeting.TAGS}{host}"])
            tags = self._watching.get(f"{meeting.TAGS}{host}").decode() if known else ""
        own = device_tags(tags)
        return f"{host}/{own[rank % n]}" if len(own) == n else host

    def close(self, wait_s: float) -> None:
        """Let the others end.

        Args:
            wait_s: seconds to wait until they have come to their end by themselves.
        """
        until = time.monotonic() + wait_s
        while time.monotonic() < until and not self._watching.check([f"{meeting.DONE}{name}" for name in self.names]):
            time.sleep(_POLL_S)
        self._watching.set(meeting.OVER, "")
        meeting.forget(self._run_id)
