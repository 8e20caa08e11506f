"""Says who had how much of the yard lately, and what is left of each quota."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from gpu_pools.names import person_of
from gpu_pools.sharing.fair_share import shares
from gpu_pools.sharing.quotas import Holding, ends_at, group_holding, holdings_of, week_use_s
from gpu_pools.sharing.settings import YardSettings
from gpu_pools.sharing.usage import Use


@dataclass(frozen=True, slots=True)
class Standing:
    """What a person, or a group, had of GPUs, and may have; times in Unix seconds.

    Args:
        who: anna, group vision.
        share: of all GPU hours that people had lately, 0 to 1.
        lately_h: GPU hours, halved for every half-life since; who has less goes first.
        week_h: GPU hours within seven days.
        slots: of GPUs that are held now.
        slots_quota: at once; None: no bound.
        hours_quota: within seven days; None: no bound.
        hours_left: of it; None: no bound.
        more_from: the hours are spent until then, if nothing more runs; None: they are not, or for ever.
    """

    who: str
    share: float
    lately_h: float
    week_h: float
    slots: int
    slots_quota: int | None
    hours_quota: float | None
    hours_left: float | None
    more_from: float | None


def standings(uses: Iterable[Use], settings: YardSettings, now: float) -> list[Standing]:
    """Return where people stand, those first who are next among equal priorities; then the groups with a quota.

    Args:
        uses: of the last five weeks.
        settings: of the yard.
        now: Unix seconds.
    """
    on_gpu = [use for use in uses if use.on_gpu]
    lately = {person: share.gpu_s for person, share in shares(on_gpu, now, settings.fair_share.half_life_s).items()}
    people = {*lately, *(person_of(name) for name in settings.quotas.owners)}
    rows = [_of_person(person, on_gpu, settings, lately, now) for person in people]
    rows.sort(key=lambda row: (row.lately_h, row.who))
    return [*rows, *(_of_group(name, on_gpu, settings, lately, now) for name in settings.quotas.groups)]


def _of_person(
    person: str, uses: Sequence[Use], settings: YardSettings, lately: dict[str, float], now: float
) -> Standing:
    own = [use for use in uses if person_of(use.owner) == person]
    held = [one for one in holdings_of(person, settings) if one.names == (person,)]
    return _standing(person, own, held, lately.get(person, 0.0), sum(lately.values()), now)


def _of_group(name: str, uses: Sequence[Use], settings: YardSettings, lately: dict[str, float], now: float) -> Standing:
    group = group_holding(name, settings)
    own = [use for use in uses if group.counts(use.owner)]
    had_s = sum(had for person, had in lately.items() if group.counts(person))
    return _standing(group.who, own, [group], had_s, sum(lately.values()), now)


def _standing(
    who: str, own: Sequence[Use], held: Sequence[Holding], lately_s: float, all_s: float, now: float
) -> Standing:
    quota = held[0].quota if held else None
    week_h, bound = week_use_s(own, now) / 3600, quota.gpu_hours if quota else None
    end = ends_at(own, quota, now) if quota else now
    return Standing(
        who=who,
        share=lately_s / all_s if all_s else 0.0,
        lately_h=lately_s / 3600,
        week_h=week_h,
        slots=sum(use.n_devices for use in own if use.running),
        slots_quota=quota.slots if quota else None,
        hours_quota=bound,
        hours_left=None if bound is None else max(0.0, bound - week_h),
        more_from=None if end == now else end,
    )
