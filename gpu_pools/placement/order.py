"""The order in which waiting runs have their turn, and what it is told to those who wait."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from gpu_pools.hosts.offers import Offer
from gpu_pools.names import people_text, person_of
from gpu_pools.placement.queues import Kind, Queue

AGING_S = 600
"""After so many seconds of waiting a run counts as one priority better, up to 1. Of equal ones, those whose owners had
less lately go first. Of equal use, the waiting counts beyond 1: a run of priority p goes before every run of priority q
that began to wait (p - q + 1) * 600 s after it, or later."""

PATIENCE_S = 86400
"""After so many seconds in which no run of its owner's started from its queue, a run counts as better than 1 whatever
was had, and as one more for every 600 s: who had most still has something every day, and nobody starves."""

_USE_STEP_S = 360  # a tenth of an hour, as sentences have it: who had less than that more had as much
_BEFORE_ALL = -(10**9)
_SHOWN = 3  # people named in a sentence

_Line = tuple[str, Kind]  # of a device and a kind of work


@dataclass(frozen=True, slots=True)
class Waiting:
    """A run that is due."""

    run_id: str
    run_name: str
    queue: Queue
    priority: int  # 1 (first) to 10
    since: float  # it began to wait, Unix seconds
    owner: str  # user@host
    lost: tuple[str, ...] = ()  # uuids of the devices whose slots it lost by a death
    flow: str = ""  # id of it
    limit_s: float | None = None  # of all attempts together
    spent_s: float = 0.0  # by those before
    memory_mib: int | None = None  # of a GPU that it is expected to take; None: not known
    memory_source: str = ""  # how that is known: "measured in 3 runs"
    recent_use_s: float = 0.0  # what its owner had lately of GPUs, or of the CPU, whichever it asks for
    booked: frozenset[str] = frozenset()  # GPUs that its owner has booked now: cuda:1
    served: float = 0.0  # a run of its owner's started from its queue last; Unix seconds, 0: never
    n_devices: int = 1  # that it needs at the same moment, of each of its hosts
    n_hosts: int = 1  # that it needs at the same moment
    due: float = 0.0  # as the server has it, the same on all hosts; Unix seconds
    offers: Mapping[str, Offer] = field(default_factory=dict, hash=False)  # of other hosts, online
    share_of: str = ""  # id of the run, on another host, that it computes a share of


Rank = tuple[int, int, int, bool, float, str]


def rank(run: Waiting, now: float) -> Rank:
    """Sorts runs, best first: by level, then by what their owners had lately, then by age.

    The level, the first number, is the priority less the waiting, not below 1 but for those whose patience is at its
    end. Of equal ones of equal use, those that waited longest by steps of 600 s are first; then those that name
    a device; then the longest waiting. A share of a run that has started is before all: others wait for it.

    Args:
        run: one that waits.
        now: Unix seconds.
    """
    aged = run.priority - int(max(0.0, now - run.since) // AGING_S)
    beyond_s = now - max(run.since, run.served) - PATIENCE_S
    level = max(1, aged) if beyond_s < 0 else -int(beyond_s // AGING_S)
    if run.share_of:
        level = _BEFORE_ALL
    return (level, _use_steps(run), aged, not run.queue.pinned, run.since, run.run_id)


def _use_steps(run: Waiting) -> int:
    return int(run.recent_use_s // _USE_STEP_S)


class Lines:
    """The runs that wait for each device and kind, as far as they have been counted, best first.

    Args:
        waiting: all that wait.
        now: Unix seconds.
    """

    def __init__(self, waiting: Iterable[Waiting], now: float) -> None:
        self._now = now
        self._everybody: dict[_Line, set[str]] = {}
        for run in waiting:
            self._everybody.setdefault(_line(run), set()).add(person_of(run.owner))
        self._n_runs: Counter[_Line] = Counter()
        self._level: dict[_Line, int] = {}
        self._people: dict[_Line, dict[str, float]] = {}  # of that level: what they had lately, seconds

    def add(self, run: Waiting) -> None:
        """Count a run, which is behind all that have been counted."""
        key, level = _line(run), rank(run, self._now)[0]
        if self._level.get(key) != level:
            self._level[key], self._people[key] = level, {}
        self._n_runs[key] += 1
        self._people[key][person_of(run.owner)] = run.recent_use_s

    def behind(self, run: Waiting, tags: Sequence[str]) -> str:
        """Return how many of those counted start before a run, and which of them do as their owners had less lately.

        They want the same device, or any GPU. Where this one takes any GPU, those that need one keep it only from
        that GPU: the one with fewest of them counts.

        Args:
            run: the next.
            tags: of the devices that it could have.
        """
        kind, anywhere = run.queue.kind, ("cuda", run.queue.kind)
        fewest = min(((tag, kind) for tag in tags), key=lambda key: self._n_runs[key])
        lines = [fewest] if run.queue.device == "cpu" else [fewest, anywhere]
        n_runs = sum(self._n_runs[key] for key in lines)
        if not n_runs:
            return ""
        text = f"{n_runs} run{'s' * (n_runs > 1)} before this one"
        standing = self._standing(run, lines)
        return f"; {standing}: {text}" if standing else f"; {text}"

    def _standing(self, run: Waiting, lines: Sequence[_Line]) -> str:
        """Return a run's owner's place among those who wait, and who is before them; empty: nobody had less."""
        level, own = rank(run, self._now)[0], person_of(run.owner)
        people = [who for key in lines if self._level.get(key) == level for who in self._people[key].items()]
        less = sorted({(use, who) for who, use in people if use // _USE_STEP_S < _use_steps(run) and who != own})
        if not less:
            return ""
        n_people = len(set[str]().union(*(self._everybody.get(key, ()) for key in lines), [own]))
        unit = "CPU hours" if run.queue.device == "cpu" else "GPU hours"
        others = [f"{people_text(who)} {hours_text(use)}" for use, who in less[:_SHOWN]]
        place = f"{_ordinal(len(less) + 1)} of {n_people} who wait"
        return f"{people_text(own)}, {place}, had {hours_text(run.recent_use_s)} {unit} lately, {', '.join(others)}"


def _line(run: Waiting) -> _Line:
    return run.queue.device, run.queue.kind


def _ordinal(number: int) -> str:
    teens = number % 100 in (11, 12, 13)
    return f"{number}{'th' if teens else {1: 'st', 2: 'nd', 3: 'rd'}.get(number % 10, 'th')}"


def hours_text(seconds: float) -> str:
    """Return hours as sentences have them: 3.1; from 10 on whole ones, as each change is written on all that wait."""
    hours = seconds / 3600
    return f"{hours:.0f}" if hours >= 9.95 else f"{hours:.1f}"
