"""One host's share of a training that another host leads: its processes, watched until the end."""

import json
import os
import queue
import signal
import subprocess
import threading
import time
from typing import Self

from gpu_pools.hosts.address import interface_of, own_address
from gpu_pools.names import host_name
from gpu_pools.process.run_setup import ON
from gpu_pools.slots.lease import report_progress, run_locks
from gpu_pools.stopping import pause
from tasks.base.errors import Interrupted
from tasks.run.stop_request import stop_asked
from tasks.training.parallel import meeting
from tasks.training.parallel.helpers import start_helper
from tasks.training.parallel.meeting import Meeting
from tasks.training.parallel.rendezvous import reach_store

_LAST_WORDS_S = 3.0


def take_part(run_id: str, number: str) -> str:
    """Compute this host's share of a run's training; return "", or why it has ended before its end.

    Args:
        run_id: of the run; its folder is the same on all hosts.
        number: of the meeting to which this host was called.

    Raises:
        ConfigError: this host has no address that the others reach.
        Interrupted: a signal has come.
    """
    until = time.monotonic() + meeting.MEET_S
    while (found := Meeting.read(run_id, number)) is None:
        if time.monotonic() > until:
            return f"its training has not begun within {meeting.MEET_S:.0f} s"
        pause(meeting.BEAT_S)
    with Share(found, host_name()) as share:
        return share.end()


class Share:
    """The processes of this host, and the line to the first process.

    One thread alone uses the line, which stands still where the network is cut.

    Args:
        found: the meeting.
        host: this one's name in it.
    """

    def __init__(self, found: Meeting, host: str) -> None:
        self._meeting, self._host = found, host
        self._ranks = found.ranks_of(host)
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._to_say = queue.SimpleQueue[tuple[str, str]]()
        self._to_say.put((f"{meeting.TAGS}{host}", os.environ.get(ON, "")))
        self._heard = time.monotonic()
        self._fault = ""  # why nothing is heard any more
        self._over = self._leaves = False
        self._progress = self._reported = ""
        self._hung_up, self._said, self._turn = threading.Event(), threading.Event(), threading.Lock()

    def __enter__(self) -> Self:
        interface = interface_of(own_address([self._meeting.address]))
        threading.Thread(target=self._keep_in_touch, name="first-process", daemon=True).start()
        for local, rank in enumerate(self._ranks):
            task = {
                **self._meeting.task,
                "rank": rank,
                "size": self._meeting.size,
                "local": local,
                "store": self._meeting.store,
                "device": self._meeting.device,
                "interface": interface,
            }
            self._processes[rank] = start_helper(task, run_locks())
        return self

    def end(self) -> str:
        """Wait for the end; return "", or why it came too early.

        Raises:
            Interrupted: a signal has come.
        """
        while True:
            try:
                pause(meeting.BEAT_S / 2)
            except Interrupted:
                self._leave("its share of the run was cancelled there")
                raise
            codes = {rank: process.poll() for rank, process in self._processes.items()}
            if all(code == 0 for code in codes.values()):
                self._say({f"{meeting.DONE}{self._host}": ""})
                return ""
            if reason := self._reason(codes):
                return reason
            self._report()

    def _reason(self, codes: dict[int, int | None]) -> str:
        """Return why to end, "" to go on."""
        if bad := {rank: code for rank, code in codes.items() if code}:
            self._say({f"{meeting.ENDED}{rank}": str(code) for rank, code in bad.items()})
            rank, code = next(iter(bad.items()))
            how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"failed with exit code {code}"
            return f"process {rank + 1} of {self._meeting.size} {how}"
        if self._over:
            return "the worker of this host stops" if self._leaves else "the training has ended"
        if self._fault:
            return f"the first process of the training is gone: {self._fault}"
        if (silent_s := time.monotonic() - self._heard) > meeting.SILENT_S:
            return f"the first process of the training has not been heard of for {silent_s:.0f} s"
        if stop_asked() and not self._leaves:  # the first process saves the state, and ends
            self._leaves = True
            self._say({f"{meeting.LEAVES}{self._host}": ""})
        return ""

    def _report(self) -> None:
        """Say on the slots of this host how far the training is, for those who wait for them.

        Raises:
            StorageError: the slots' records cannot be written.
        """
        if self._progress != self._reported:
            self._reported = self._progress
            far = json.loads(self._reported)
            report_progress(far["epoch"], far["n_epochs"], far["remaining_s"], far["unit"])

    def _leave(self, reason: str) -> None:
        self._say({f"{meeting.LEFT}{self._host}": reason})

    def _say(self, words: dict[str, str]) -> None:
        """Have words told to the first process, if it can be reached before long."""
        with self._turn:
            self._said.clear()
            for word in words.items():
                self._to_say.put(word)
        self._said.wait(_LAST_WORDS_S)

    def _keep_in_touch(self) -> None:
        try:
            store = reach_store(self._meeting.store)
            while not self._hung_up.is_set():
                while not self._to_say.empty():
                    store.set(*self._to_say.get())
                store.add(f"{meeting.BEAT}{self._host}", 1)
                self._over = store.check([meeting.OVER])
                if store.check([meeting.PROGRESS]):
                    self._progress = store.get(meeting.PROGRESS).decode()
                self._heard = time.monotonic()
                with self._turn:
                    if self._to_say.empty():
                        self._said.set()
                self._hung_up.wait(meeting.BEAT_S)
        except RuntimeError as exc:
            self._fault = " ".join(str(exc).split())[:200]

    def __exit__(self, *_: object) -> None:
        for process in self._processes.values():
            process.kill()
            process.wait()
        self._hung_up.set()
