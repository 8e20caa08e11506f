"""Keeps runs off GPUs whose owners, or their groups, have all that they may have."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from gpu_pools.names import is_called, people_text, person_of
from gpu_pools.placement.order import Waiting, hours_text
from gpu_pools.placement.place import DeviceState
from gpu_pools.placement.queues import device_tags
from gpu_pools.placement.wording import clock_text, describe
from gpu_pools.sharing.settings import SettingsReader, YardSettings
from gpu_pools.sharing.share_settings import Quota
from gpu_pools.sharing.usage import UsageReader, Use
from gpu_pools.slots.lease import Holder, holders

WEEK_S = 7 * 86400.0

_EVERY_S = 10.0
_STEP_S = 600.0  # to which the end of a quota is rounded up: each change is written on all that wait
_SHOWN = 3  # runs named in a sentence
_NEVER = float("-inf")


@dataclass(frozen=True, slots=True)
class Holding:
    """Somebody, or a group, with a quota.

    Args:
        who: as sentences have it: anna, group vision.
        names: of the owners, anna or anna@boxa; with one of them a run counts.
        quota: what they may have.
    """

    who: str
    names: tuple[str, ...]
    quota: Quota

    def counts(self, owner: str) -> bool:
        """Return whether the runs of an owner count."""
        return any(is_called(owner, name) for name in self.names)


def holdings_of(owner: str, settings: YardSettings) -> list[Holding]:
    """Return all that a run of an owner has to fit: its own quota, or that of each person, and those of its groups."""
    quotas = settings.quotas
    named = [(name, quota) for name, quota in quotas.owners.items() if is_called(owner, name)]
    own = [Holding(name, (name,), quota) for name, quota in named]
    person = person_of(owner)
    own = own or [Holding(people_text(person), (person,), quotas.each)]
    groups = [group_holding(name, settings) for name in quotas.groups]
    return [one for one in [*own, *(group for group in groups if group.counts(owner))] if one.quota != Quota()]


def group_holding(name: str, settings: YardSettings) -> Holding:
    """Return a group that has a quota."""
    return Holding(f"group {name}", settings.groups[name], settings.quotas.groups[name])


def week_use_s(uses: Iterable[Use], at: float) -> float:
    """Return the seconds that runs had of GPUs in the seven days before a time, each GPU's; `at` in Unix seconds."""
    return sum(
        use.n_devices * max(0.0, min(use.until, at) - max(use.until - use.ran_s, at - WEEK_S))
        for use in uses
        if use.on_gpu
    )


def ends_at(uses: Sequence[Use], quota: Quota, now: float) -> float | None:
    """Return when less than a quota of hours has been had in the seven days before, if nothing more runs.

    Args:
        uses: of those who have the quota.
        quota: theirs.
        now: Unix seconds.

    Returns:
        Unix seconds, `now` where that is so already; None: never, as the quota is 0.
    """
    if quota.gpu_hours is None or week_use_s(uses, now) < quota.gpu_hours * 3600:
        return now
    if quota.gpu_hours == 0:
        return None
    low, high = now, now + WEEK_S
    while high - low > 1:  # what counts only becomes less
        middle = (low + high) / 2
        low, high = (low, middle) if week_use_s(uses, middle) < quota.gpu_hours * 3600 else (middle, high)
    return high


class QuotaRule:
    """Lets a run start on a GPU while its owner, and each group of its owner's, has less than the quota.

    Args:
        settings: of the yard.
        slots: those of GPUs that are held now: owner, and the run as sentences have it.
        spent: sentence of an owner whose hours are spent; empty: they are not.
    """

    everywhere = True

    def __init__(
        self, settings: YardSettings, slots: Sequence[tuple[str, str]], spent: Callable[[str], str] = lambda _: ""
    ) -> None:
        self._settings, self._slots, self._spent = settings, slots, spent
        self._known: dict[str, list[tuple[Holding, list[str]]]] = {}  # a thousand runs may wait, of a few owners

    def against(self, run: Waiting, device: DeviceState, starting: Mapping[str, Sequence[Waiting]]) -> str | None:
        """Return "anna has 2 of 2 GPU slots (quota): ...", or that the hours are spent, and until when; else None."""
        if device.tag == "cpu":
            return None
        if text := self._spent(run.owner):
            return text
        for holding, held in self._bounds(run.owner):
            gpus = (runs for uuid, runs in starting.items() if uuid != "cpu")
            begin = [one.run_name for runs in gpus for one in runs if holding.counts(one.owner)]
            n_needed = run.n_devices * run.n_hosts
            if len(held) + len(begin) + n_needed > (holding.quota.slots or 0):
                text = _slots_text(holding, [*held, *(f"{name}, which starts now" for name in begin)])
                return f"{text}; this run needs {n_needed}" if n_needed > 1 else text
        return None

    def _bounds(self, owner: str) -> list[tuple[Holding, list[str]]]:
        """Return the quotas of slots for runs of an owner, and which runs have some of them."""
        if owner not in self._known:
            bound = [one for one in holdings_of(owner, self._settings) if one.quota.slots is not None]
            self._known[owner] = [(one, [text for who, text in self._slots if one.counts(who)]) for one in bound]
        return self._known[owner]


def _slots_text(holding: Holding, held: Sequence[str]) -> str:
    rest = [f"{len(held) - _SHOWN} more"] if len(held) > _SHOWN else []
    text = f"{holding.who}: {len(held)} of {holding.quota.slots} GPU slots taken (quota)"
    return f"{text}: {'; '.join([*held[:_SHOWN], *rest])}" if held else text


class QuotaSource:
    """Knows the quotas, who has how many slots, and who had how many hours; without quotas it asks nobody.

    Slots on this host are known as they are; those on other hosts, and the hours, as Prefect knew them a minute ago.
    Until Prefect has said so once, nobody with a quota of hours starts.

    Args:
        usage: who had what.
        settings: of the yard.
        host: this one's name.
        clock: Unix seconds.
    """

    def __init__(self, usage: UsageReader, settings: SettingsReader, host: str, clock: Callable[[], float]) -> None:
        self._usage, self._settings, self._host, self._clock = usage, settings, host, clock
        self._looked_at = self._read_at = _NEVER
        self._known = YardSettings()
        self._uses: Sequence[Use] = ()  # of GPUs
        self._spent: dict[str, str] = {}

    def rule(self, waiting: Sequence[Waiting]) -> QuotaRule:
        """Return the rule as it is now."""
        settings = self._settings.read()
        if settings.quotas == YardSettings().quotas:
            return QuotaRule(settings, ())
        if (
            self._clock() - self._looked_at >= _EVERY_S
            or settings != self._known
            or self._usage.read_at != self._read_at
        ):
            self._uses = [use for use in self._usage.uses() if use.on_gpu]
            self._known, self._spent, self._looked_at = settings, {}, self._clock()
            self._read_at = self._usage.read_at
        asked = {run.run_id for run in waiting}  # one that died waits, and its slot is kept for it
        here = [holder for holder in holders() if holder.uuid != "cpu" and holder.run_id not in asked]
        slots = [*((holder.owner, self._described(holder)) for holder in here), *self._elsewhere()]
        return QuotaRule(settings, slots, self._spent_text)

    def _described(self, holder: Holder) -> str:
        return f"{holder.device} has {describe(holder, self._clock())}"

    def _elsewhere(self) -> list[tuple[str, str]]:
        running = [use for use in self._uses if use.running and use.host not in ("", self._host)]
        return [
            (use.owner, f"{use.host}/{tag} has {use.run_name}") for use in running for tag in device_tags(use.device)
        ]

    def _spent_text(self, owner: str) -> str:
        if owner not in self._spent and self._read_at == _NEVER:
            hours = [one for one in holdings_of(owner, self._known) if one.quota.gpu_hours is not None]
            self._spent[owner] = f"the GPU hours of {hours[0].who} (quota) are being read" if hours else ""
        elif owner not in self._spent:
            texts = (_hours_text(one, self._uses, self._clock()) for one in holdings_of(owner, self._known))
            self._spent[owner] = next(filter(None, texts), "")
        return self._spent[owner]


def _hours_text(holding: Holding, uses: Sequence[Use], now: float) -> str:
    """Return that the hours of somebody, or of a group, are spent, and until when; empty: they are not."""
    own = [use for use in uses if holding.counts(use.owner) and use.until > now - WEEK_S]
    end, hours = ends_at(own, holding.quota, now), holding.quota.gpu_hours
    if hours is None or end == now:
        return ""
    text = f"{holding.who} had {hours_text(week_use_s(own, now))} of {hours:g} GPU hours in 7 days (quota)"
    return text if end is None else f"{text}: more from {clock_text(-(-end // _STEP_S) * _STEP_S, now)}"
