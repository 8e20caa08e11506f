"""Keeps what runs have taken of their GPUs' memory, on every host of the yard, and forecasts from it."""

import json
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from prefect.runtime import flow_run
from pydantic import TypeAdapter, ValidationError
from pydantic_core import to_jsonable_python

from gpu_pools.names import FORECAST_LABEL, FORECAST_SOURCE_LABEL
from gpu_pools.prefect_client import PoolClient, Run
from gpu_pools.sharing.memory_model import MemoryNeed, Peak, forecast
from gpu_pools.sharing.memory_settings import PARAMETERS, setting_of
from gpu_pools.slots.slot_files import Holder
from tasks.base.workspace import home, write_json

logger = logging.getLogger("trainyard.worker")

_EVERY_S = 20.0
_MARGIN_S = 60.0  # a run's end is written by its own host, whose clock may differ
_FIRST_S = 30 * 86400.0  # so far back is read where nothing is kept yet
_KEPT, _KEPT_OF_SETTING = 2000, 5  # of the newest peaks
_REMEMBERED = 20_000  # runs
_FILE = TypeAdapter(tuple[float, list[Peak]])


class MemoryForecasts:
    """What runs will take, by what runs of this yard have taken.

    Prefect has what each run has measured, as a label; the home keeps it for when Prefect has forgotten the run.

    Args:
        client: of Prefect's server.
        clock: Unix seconds.
    """

    def __init__(self, client: PoolClient, clock: Callable[[], float]) -> None:
        self._client, self._clock = client, clock
        self._path = home() / "memory-peaks.json"
        self._until, self._peaks = _read(self._path, clock() - _FIRST_S)
        self._looked_at = float("-inf")
        self._known: dict[str, MemoryNeed | None] = {}  # by run: thousands that wait are asked about twice a second

    def of_run(self, run: Run) -> MemoryNeed | None:
        """Return what a run of a deployment will take; None: not known.

        Raises:
            httpx.HTTPError: the server does not answer.
        """
        self._look()
        if run.id not in self._known:
            setting = setting_of(run.flow_name, run.parameters, run.defaults)
            self._known[run.id] = forecast(setting, self._peaks) if setting else None
        return self._known[run.id]

    def of_own_run(self) -> MemoryNeed | None:
        """Return what the flow will take that runs in this process; None: not known.

        Raises:
            httpx.HTTPError: the server does not answer.
        """
        parameters = to_jsonable_python(flow_run.parameters, fallback=str)
        setting = setting_of(str(flow_run.flow_name), parameters, {})
        if setting is None:
            return None
        self._look()
        return forecast(setting, self._peaks)

    def _look(self) -> None:
        """Read what has been measured since the last look; forecasts stand until something has."""
        now = self._clock()
        if now - self._looked_at < _EVERY_S:
            return
        known = {peak.run_id for peak in self._peaks}
        found = [peak for peak in _measured(self._client, self._until - _MARGIN_S) if peak.run_id not in known]
        self._looked_at = self._until = now
        if found:
            self._peaks = _newest([*found, *self._peaks])
            write_json(self._path, _FILE.dump_python((now, self._peaks), mode="json"))
        if found or len(self._known) > _REMEMBERED:
            self._known.clear()


def forecast_labels(holder: Holder) -> dict[str, str | float]:
    """Return the labels of a flow run with what it was expected to take when it got its slot; none: not known."""
    if holder.memory_mib is None:
        return {}
    return {FORECAST_LABEL: holder.memory_mib, FORECAST_SOURCE_LABEL: holder.memory_source}


def _measured(client: PoolClient, since: float) -> Iterator[Peak]:
    """Yield the peaks of the runs that have completed since then, Unix seconds, the newest first."""
    for run in client.completed(tuple(PARAMETERS), since):
        setting = setting_of(run.flow_name, run.parameters, run.defaults)
        if setting is not None and run.peak_memory_mib:
            yield Peak(run.id, setting, round(run.peak_memory_mib))


def _newest(peaks: Sequence[Peak]) -> list[Peak]:
    """Return the first of each setting, and of all."""
    n_of: Counter[object] = Counter()
    kept = []
    for peak in peaks:
        n_of[peak.setting] += 1
        if n_of[peak.setting] <= _KEPT_OF_SETTING:
            kept.append(peak)
    return kept[:_KEPT]


def _read(path: Path, first: float) -> tuple[float, list[Peak]]:
    """Return until when Prefect was read, and what was found; a file that is torn or of another version is made anew.

    Args:
        path: of the file.
        first: from when on Prefect is read where there is none, Unix seconds.
    """
    try:
        return _FILE.validate_python(json.loads(path.read_text()))
    except FileNotFoundError:
        return first, []
    except (ValueError, ValidationError) as exc:
        logger.warning("measured peaks of memory are read from Prefect again, as %s cannot be used: %s", path, exc)
        return first, []
