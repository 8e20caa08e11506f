"""What each person had lately of the yard, by which runs of equal priority are ordered."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from gpu_pools.names import person_of
from gpu_pools.placement.order import Waiting
from gpu_pools.placement.queues import UNCOUNTED
from gpu_pools.sharing.settings import SettingsReader
from gpu_pools.sharing.usage import UsageReader, Use

HALF_LIFE_S = 7 * 86400.0
"""What was had so long ago counts half, where the yard's settings say nothing else; a week is the default of Slurm's
multifactor priority, too (PriorityDecayHalfLife)."""

_EVERY_S = 10.0


@dataclass(frozen=True, slots=True)
class Share:
    """What a person had lately, in seconds, halved for every half-life since; GPUs and slots of the CPU apart."""

    gpu_s: float = 0.0
    cpu_s: float = 0.0


def shares(uses: Iterable[Use], now: float, half_life_s: float = HALF_LIFE_S) -> dict[str, Share]:
    """Return what each person had lately; a slot counts whole, whether others share its GPU or not,
    and each of a run's devices counts.

    Housekeeping, which is nobody's, does not count.

    Args:
        uses: of the last weeks.
        now: Unix seconds.
        half_life_s: what was had so long ago counts half.
    """
    seconds: dict[tuple[str, bool], float] = defaultdict(float)
    for use in uses:
        if use.kind not in UNCOUNTED:
            once = decayed(use.ran_s, now - use.until, half_life_s)
            seconds[person_of(use.owner), use.on_gpu] += use.n_devices * once
    people = {person for person, _ in seconds}
    return {person: Share(seconds[person, True], seconds[person, False]) for person in people}


def decayed(ran_s: float, ago_s: float, half_life_s: float = HALF_LIFE_S) -> float:
    """Return what is left of a stretch of time, each second of it halved for every half-life since.

    Args:
        ran_s: its length, seconds.
        ago_s: since its end, seconds; an end to come counts as now.
        half_life_s: above 0.
    """
    rate = math.log(2) / half_life_s
    return math.exp(-rate * max(0.0, ago_s)) * -math.expm1(-rate * ran_s) / rate


class FairShare:
    """Tells of waiting runs what their owners had lately.

    Args:
        usage: who had what.
        settings: of the yard.
        clock: Unix seconds.
    """

    def __init__(self, usage: UsageReader, settings: SettingsReader, clock: Callable[[], float]) -> None:
        self._usage, self._settings, self._clock = usage, settings, clock
        self._summed_at = float("-inf")
        self._shares: Mapping[str, Share] = {}
        self._served: Mapping[tuple[str, str], float] = {}
        self._started: dict[tuple[str, str], float] = {}  # by this process, which Prefect's server may not tell yet

    def told(self, waiting: Sequence[Waiting]) -> list[Waiting]:
        """Return the runs with what placement is to know of their owners, some seconds old at most.

        Where all are one person's, nothing is asked for: it would order nothing.
        """
        if len({person_of(run.owner) for run in waiting}) < 2:
            return list(waiting)
        if self._clock() - self._summed_at >= _EVERY_S:
            self._sum()
        return [self._told(run) for run in waiting]

    def note_start(self, run: Waiting) -> None:
        """Take down that a run starts: whose patience was at its end has had their turn, also within this one."""
        self._started[person_of(run.owner), run.queue.name] = self._clock()

    def _sum(self) -> None:
        uses, half_life_s = self._usage.uses(), self._settings.read().fair_share.half_life_s
        self._shares, self._served = shares(uses, self._clock(), half_life_s), _served(uses)
        self._summed_at = self._clock()

    def _told(self, run: Waiting) -> Waiting:
        """Return a run with what is known here, or what its own process said of it, whichever is more."""
        person = person_of(run.owner)
        share = self._shares.get(person, Share())
        use_s = share.cpu_s if run.queue.device == "cpu" else share.gpu_s
        key = (person, run.queue.name)
        served = max(self._served.get(key, 0.0), self._started.get(key, 0.0), run.served)
        return replace(run, recent_use_s=max(use_s, run.recent_use_s), served=served)


def _served(uses: Iterable[Use]) -> dict[tuple[str, str], float]:
    """Return, by person and queue, when a run of theirs began last; Unix seconds."""
    found: dict[tuple[str, str], float] = {}
    for use in uses:
        key = (person_of(use.owner), use.queue)
        found[key] = max(use.began, found.get(key, 0.0))
    return found
