"""Leaves word where a disk is too full for runs to start, or a GPU does not answer any more."""

from collections.abc import Sequence
from datetime import UTC, datetime

from gpu_pools.placement.disk import read_disk, size_text
from gpu_pools.placement.host_state import HostState
from gpu_pools.placement.queues import device_tags
from gpu_pools.sharing.notices import notify
from gpu_pools.slots.ledger import Entry


class HostWatch:
    """Call `look` twice a minute. Of each thing it leaves word once a day, as long as it lasts.

    Args:
        host: has the GPUs.
    """

    def __init__(self, host: HostState) -> None:
        self._host = host
        self._silent: set[str] = set()

    def look(self, runs: Sequence[Entry]) -> None:
        """Look at the disk of the home and at all GPUs.

        Args:
            runs: that have a device of this host; their owners are told, too.
        """
        self._look_at_disk()
        faults = self._host.faults()
        for tag in self._silent & faults.keys():  # twice: one that is reset is away for a moment
            self._tell_of_device(tag, faults[tag], [run for run in runs if tag in device_tags(run.tag)])
        self._silent = set(faults)

    def _look_at_disk(self) -> None:
        disk = read_disk()
        if disk.low:
            figures = {"free": size_text(disk.free), "needed": size_text(disk.least), "disk": disk.path}
            text = f"On {self._host.name} nothing new starts: {disk.sentence()}."
            notify("disk-low", f"{self._host.name}:{disk.path}:{_day()}", text, device=self._host.name, figures=figures)

    def _tell_of_device(self, tag: str, fault: str, runs: Sequence[Entry]) -> None:
        name = f"{self._host.name}/{tag}"
        of_runs = f" Runs on it: {', '.join(f'{run.run_name} of {run.owner}' for run in runs)}." if runs else ""
        owners = ", ".join(sorted({run.owner for run in runs if run.owner}))
        text = f"{name} does not answer and takes no runs: {fault}.{of_runs}"
        notify("device-lost", f"{name}:{_day()}", text, owner=owners, device=name)


def _day() -> str:
    return f"{datetime.now(UTC):%Y-%m-%d}"
