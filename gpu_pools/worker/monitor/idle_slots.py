"""Reports slots whose processes use neither a CPU nor the GPU, and gives them back where that is agreed."""

import logging
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from gpu_pools.names import GIVEN_BACK_LABEL, IDLE_LABEL, KIND_LABEL, whose
from gpu_pools.placement.probe import Probe
from gpu_pools.placement.queues import duration_text
from gpu_pools.prefect_client import PoolClient
from gpu_pools.sharing.idle_settings import IdleRule
from gpu_pools.sharing.notices import notify
from gpu_pools.sharing.settings import SettingsReader
from gpu_pools.slots import lease
from gpu_pools.slots.activity import Activity, descendants, typed_s_ago
from gpu_pools.slots.slot_files import UNKNOWN, Holder
from gpu_pools.worker.monitor.run_monitor import RunMonitor
from tasks.base.processes import has_open, open_files, others

logger = logging.getLogger("trainyard.worker")

_MOST_GAP_S = 300.0
"""After a longer time without a look nothing is known of it: the host slept, or the server was away."""

_TYPED_S = 60.0


@dataclass(slots=True)
class _Watched:
    """A run that is looked at.

    Attributes:
        activity: of its processes.
        reported_at: seconds; None: it is not, or works again.
        is_ended: it was asked to end.
    """

    activity: Activity
    reported_at: float | None = None
    is_ended: bool = False


class IdleSlots:
    """Call `look` three times a minute. It looks at this worker's runs, and at those of terminals of this host.

    What is idle counts from its first look on, so anew after a restart of the worker.

    Args:
        client: of Prefect's server; a run that it does not know is another yard's.
        monitor: ends runs of this worker.
        probe: reads the GPUs.
        settings: with the rules.
        clock: Unix seconds.
    """

    def __init__(
        self,
        client: PoolClient,
        monitor: RunMonitor,
        probe: Probe,
        settings: SettingsReader,
        clock: Callable[[], float],
    ) -> None:
        self._client, self._monitor, self._probe = client, monitor, probe
        self._settings, self._clock = settings, clock
        self._looked_at = clock()
        self._watched: dict[str, _Watched] = {}

    def look(self) -> None:
        """Report what idles, once, and end what has idled for too long since.

        Raises:
            httpx.HTTPError: the server does not answer.
        """
        rules = self._settings.read().idle
        held: dict[str, tuple[list[Holder], IdleRule]] = {}  # with all slots of each run
        for holder in lease.holders():
            rule = rules.of(holder.kind)
            if holder.run_id != UNKNOWN and rule and rule.report is not None:
                held.setdefault(holder.run_id, ([], rule))[0].append(holder)
        self._watched = {run_id: known for run_id, known in self._watched.items() if run_id in held}
        gap_s, self._looked_at = self._clock() - self._looked_at, self._clock()
        users = users_of([holder for slots, _ in held.values() for holder in slots])
        for run_id, (slots, rule) in held.items():
            known = self._watched.get(run_id) or self._first_look(slots)
            pids = {*self._own(run_id)}
            for holder in slots:
                pids |= {*users[slot_file(holder)], *descendants(holder.pid)}
            if gap_s > _MOST_GAP_S or typed_s_ago(pids) < _TYPED_S:
                known.activity.used()
            self._judge(_joined(slots), known, rule, known.activity.idle_s(pids))

    def _first_look(self, slots: Sequence[Holder]) -> _Watched:
        run_id, gpus = slots[0].run_id, [holder.uuid for holder in slots if holder.uuid != "cpu"]
        known = self._watched[run_id] = _Watched(Activity(self._probe, gpus, self._clock))
        if self._labels(run_id).get(IDLE_LABEL):  # by a worker that was here before; its time begins anew
            self._client.set_labels(run_id, {IDLE_LABEL: ""})
        return known

    def _own(self, run_id: str) -> list[int]:
        """Return the processes of a run of this worker: the record of a slot may be written by any user."""
        entry = self._monitor.get(run_id)
        return descendants(entry.pid) if entry and entry.pid else []

    def _judge(self, holder: Holder, known: _Watched, rule: IdleRule, idle_s: float) -> None:
        assert rule.report is not None
        if idle_s < rule.report:
            if known.reported_at is not None:
                self._client.set_labels(holder.run_id, {IDLE_LABEL: ""})
                known.reported_at = None
        elif known.reported_at is None:
            if self._is_ours(holder.run_id):
                self._report(holder, idle_s, rule.give_back)
                known.reported_at = self._clock()
        elif rule.give_back is not None and self._clock() - known.reported_at >= rule.give_back and not known.is_ended:
            known.is_ended = True
            self._end(holder, idle_s)

    def _is_ours(self, run_id: str) -> bool:
        """Return whether a run is this worker's, or one in a terminal that this yard's server knows."""
        return self._monitor.get(run_id) is not None or KIND_LABEL in self._labels(run_id)

    def _labels(self, run_id: str) -> Mapping[str, Any]:
        try:
            return self._client.labels(str(UUID(run_id)))
        except ValueError:  # what a record says, any user may have written
            return {}

    def _report(self, holder: Holder, idle_s: float, give_back: float | None) -> None:
        since = time.strftime("%H:%M", time.localtime(self._clock() - idle_s))
        text = f"idle since {since}: its processes use neither a CPU nor {_gpu(holder)}"
        if give_back is not None:
            text += f"; it is ended {duration_text(give_back)} after this report unless it works again"
        self._client.set_labels(holder.run_id, {IDLE_LABEL: text})
        self._client.add_tag(holder.run_id, f"idle since {since}")
        logger.warning("run %s (%s) of %s is %s", holder.run_id, holder.run_name, holder.owner, text)
        notify(
            *("idle", f"{holder.run_id} {datetime.now(UTC):%Y-%m-%d}"),
            f"{whose(holder.run_name, holder.owner)} is {text}.",
            owner=holder.owner,
            run_id=holder.run_id,
            run_name=holder.run_name,
            device=holder.device,
            figures={"idle": _rounded(idle_s)},
        )

    def _end(self, holder: Holder, idle_s: float) -> None:
        text = f"gave {holder.device} back: its processes used neither a CPU nor {_gpu(holder)} for {_rounded(idle_s)}"
        if self._monitor.get(holder.run_id) is not None:
            self._monitor.request_end(holder.run_id, "cancel", text)
            return
        if not has_open(holder.pid, slot_file(holder)):  # the record may be forged, and this user may be root
            logger.warning("run %s (%s) is not ended: its process is another user's", holder.run_id, holder.run_name)
            return
        self._client.set_labels(holder.run_id, {GIVEN_BACK_LABEL: text})  # it reads there why it was told to end
        try:
            os.kill(holder.pid, signal.SIGTERM)
            logger.warning("run %s (%s) is told to end: it %s", holder.run_id, holder.run_name, text)
        except (PermissionError, ProcessLookupError) as exc:
            logger.warning("run %s (%s) cannot be ended: %s", holder.run_id, holder.run_name, exc)


def slot_file(holder: Holder) -> Path:
    """Return the file of a run's slot, which its processes have open."""
    return lease.slot_path(lease.lock_dir(), holder).resolve()


def users_of(holders: list[Holder]) -> dict[Path, set[int]]:
    """Return the numbers of the processes that have each of these slots, as they have inherited it."""
    found: dict[Path, set[int]] = {slot_file(holder): set() for holder in holders}
    if found:
        for pid in others():
            for path in found.keys() & open_files(pid):
                found[path].add(pid)
    return found


def _joined(slots: Sequence[Holder]) -> Holder:
    """Return the first slot of a run, with the names of all its devices."""
    return replace(slots[0], device=",".join(holder.device for holder in slots))


def _gpu(holder: Holder) -> str:
    return "a GPU" if holder.device == "cpu" else holder.device


def _rounded(seconds: float) -> str:
    return duration_text(seconds if seconds < 600 else round(seconds / 60) * 60)
