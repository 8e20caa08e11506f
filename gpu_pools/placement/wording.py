"""How sentences name the runs that hold slots, and moments."""

import time
from collections.abc import Sequence

from gpu_pools.names import NOBODY, whose
from gpu_pools.slots.slot_files import UNKNOWN, Holder, SlotProgress


def describe(holder: Holder, now: float) -> str:
    """Return who holds a slot, since when, how far the run is and how long it will take; `now` in Unix seconds."""
    if holder.run_id == UNKNOWN:
        return "a run whose record cannot be read"
    who, since = whose(holder.run_name, holder.owner), f"since {clock_text(holder.since, now)}"
    parts = [who, since] if holder.owner in NOBODY else [f"{who} {since}"]
    if holder.progress:
        parts.append(f"{holder.progress.unit} {holder.progress.epoch} of {holder.progress.n_epochs}")
        parts += _remaining(holder.progress, now)
    return ", ".join(parts)


def are_text(words: Sequence[str]) -> str:
    """Return what a sentence begins with: a is; a, b and c are; there is one word at least."""
    if len(words) == 1:
        return f"{words[0]} is"
    return f"{', '.join(words[:-1])} and {words[-1]} are"


def clock_text(moment: float, now: float) -> str:
    """Return a moment as people here read it: 14:02 today, else with its date; both in Unix seconds."""
    then, today = time.localtime(moment), time.localtime(now)
    return time.strftime("%H:%M" if then[:3] == today[:3] else "%Y-%m-%d %H:%M", then)


def _remaining(progress: SlotProgress, now: float) -> list[str]:
    if progress.remaining_s is None:
        return []
    minutes = (progress.remaining_s - (now - progress.updated)) / 60
    if minutes < 1:
        return ["less than a minute more"]
    # Every change of the sentence is a call to Prefect for every run that waits for this one.
    step = 1 if minutes < 20 else 5 if minutes < 120 else 15
    return [f"about {round(minutes / step) * step} min more"]
