"""The inbox of a home: `python -m deployments.inbox.serve`, a service of `yard up`.

It looks every two seconds: where the home lies on NFS, the kernel says nothing of what other hosts write there.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from deployments.inbox.arriving import Arrivals
from deployments.inbox.claiming import claim, recover
from deployments.inbox.places import (
    DONE,
    REJECTED,
    done,
    inbox,
    items,
    make_inbox,
    read_item,
    taking,
    write_view,
)
from deployments.inbox.settling import Found, Settling, lonely
from deployments.inbox.take import WAITS
from deployments.runs.flow_list import entrypoints
from deployments.services.alone import turn_forever, wait_alone
from deployments.services.programs import INBOX_SERVES
from gpu_pools.periodic import Periodic
from tasks.base.errors import StorageError, TrainyardError
from tasks.base.startup import module_command
from tasks.base.workspace import storage_errors

POLL_S = 2.0
SETTLE_S = 5.0
RETRY_S = 10.0
ARRIVE_S = 5.0


class Inbox:
    """Call `turn` every two seconds.

    Args:
        settling: says what is whole.
        take: brings an item on its way to its end, and returns whether it is there.
        arrive: brings in what was sent from other machines.
        clock: seconds.
    """

    def __init__(
        self,
        settling: Settling,
        take: Callable[[str], bool],
        arrive: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settling, self._take, self._clock = settling, take, clock
        self._arrive = Periodic(arrive, ARRIVE_S, clock)
        self._without_run = {item.key for _, item in items(done()) if item.state != "submitted"}
        self._retry_at: dict[str, float] = {}
        self._stuck: dict[Path, tuple[str, str]] = {}  # path -> its signature, and why it cannot be moved
        self._damaged: dict[str, str] = {}  # key -> why nothing can be done with what was taken
        self._shown: dict[str, Any] = {}

    def turn(self) -> None:
        """Take what has settled, and go on with what was taken.

        Raises:
            StorageError: the disk is full.
            OSError: a folder of the inbox cannot be read.
        """
        self._arrive()
        for key in self._open():
            self._advance(key)
        found = self._settling.look(_folders())
        for one in found:
            if not one.why and (taken := self._claim(one)) is not None:
                self._advance(taken)
        self._show(found)

    def _open(self) -> list[str]:
        """Return the keys of what is on its way; a claim that was cut off is finished, or undone."""
        self._damaged = {}
        taken = [path for path in sorted(taking().iterdir()) if not path.name.startswith(".")]
        started = [path.name for path in taken if self._recovered(path)]
        return list(dict.fromkeys([*started, *sorted(self._without_run)]))

    def _recovered(self, folder: Path) -> bool:
        try:
            return recover(folder)
        except (StorageError, OSError) as exc:  # the others go on
            self._damaged[folder.name] = str(exc)
            return False

    def _claim(self, found: Found) -> str | None:
        if self._stuck.get(found.path, ("", ""))[0] == found.signature:
            return None
        try:
            return claim(found)
        except OSError as exc:
            hint = ": a folder must be writable by the yard's group, chmod -R g+rwX"
            hint = hint if isinstance(exc, PermissionError) else ""
            self._stuck[found.path] = found.signature, f"cannot be moved, {exc.strerror}{hint}"
            return None

    def _advance(self, key: str) -> None:
        if self._clock() < self._retry_at.get(key, 0.0):
            return
        self._without_run.add(key)  # until it is known to be at its end
        if self._take(key):
            self._without_run.discard(key)
            self._retry_at.pop(key, None)
        else:
            self._retry_at[key] = self._clock() + RETRY_S

    def _show(self, found: list[Found]) -> None:
        """Write down what waits, and why."""
        self._stuck = {path: stuck for path, stuck in self._stuck.items() if path in {one.path for one in found}}
        known = entrypoints()
        waiting = []
        for one in found:
            if os.path.lexists(one.path):
                stuck = self._stuck.get(one.path, ("", ""))[1]
                waiting.append({"flow": one.path.parent.name, "name": one.path.name, "why": one.why or stuck})
        for folder in _folders():
            why = "waits for what it is the parameters of"
            waiting += [{"flow": folder.name, "name": path.name, "why": why} for path in lonely(folder)]
        for folder in _others():
            if folder.name not in known:
                why = f"found no flow {folder.name!r}, have: {', '.join(sorted(known))}"
                waiting += [{"flow": folder.name, "name": name, "why": why} for name in sorted(os.listdir(folder))]
        folders = [folder for key in sorted(self._without_run) for folder in (taking(key), done(key))]
        way = [item for folder in folders if folder.is_dir() and (item := read_item(folder)) is not None]
        shown = [{"flow": item.flow, "name": item.name, "why": item.trouble} for item in way]
        shown += [{"flow": "", "name": key, "why": why} for key, why in self._damaged.items()]
        view = {"waiting": waiting, "taking": shown}
        if view != self._shown:
            write_view(view)
            self._shown = view


def _others() -> list[Path]:
    """Return the folders of the inbox that are not its own."""
    with storage_errors(inbox()):
        paths = sorted(inbox().iterdir())
    return [path for path in paths if path.name not in {DONE, REJECTED} and path.name[0] != "." and path.is_dir()]


def _folders() -> list[Path]:
    known = entrypoints()
    return [path for path in _others() if path.name in known and not path.is_symlink()]


def run_taker(key: str, fd: int) -> bool:
    """Take an item in a process of its own, which holds the inbox for as long as it lives; return whether it is done.

    Args:
        key: of the item.
        fd: holds the lock of the inbox.
    """
    code = subprocess.run(module_command("deployments.inbox.take", key), pass_fds=(fd,), check=False).returncode
    if code not in {0, WAITS}:
        print(f"the taking of {key} has ended with {code}; it is tried again", flush=True)
    return code == 0


def run_fetcher(upload: str, fd: int) -> None:
    """Fetch an upload in a process of its own, which holds the inbox for as long as it lives."""
    subprocess.run(module_command("deployments.inbox.arriving", upload), pass_fds=(fd,), check=False)


def main() -> None:
    """Serve the inbox until stopped; of several that serve one home, one does and the others wait for it."""
    try:
        make_inbox([])
        print(f"{INBOX_SERVES} {inbox()}", flush=True)
        fd = wait_alone(inbox())
        arrivals = Arrivals(os.environ.get("MLFLOW_TRACKING_URI", ""), lambda upload: run_fetcher(upload, fd))
        served = Inbox(Settling(SETTLE_S), lambda key: run_taker(key, fd), arrivals.turn)
        turn_forever(served.turn, (StorageError, OSError), POLL_S)
    except TrainyardError as exc:
        sys.exit(f"error: {exc}")


if __name__ == "__main__":
    main()
