"""How a run used its slot: some numbers, as labels of its flow run and as a sentence."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Self

from gpu_pools.placement.queues import duration_text

_LABEL = "trainyard."
_LONG_S = 100.0


@dataclass(frozen=True, slots=True)
class SlotUse:
    """How a run has used its slot; None where that is not known.

    Args:
        held_s: since the slot was taken.
        first_batch_s: from there to the end of the first batch; None also before that.
        gpu_busy_share: mean of the GPU's utilisation, in [0, 1]; None also on the CPU, as the next two.
        energy_wh: the run's share of what the GPU drew.
        peak_memory_mib: the most device memory that the run's processes had.

    The label of `energy_wh` is `trainyard.energy_wh`, and so on.
    """

    held_s: float | None = None
    first_batch_s: float | None = None
    gpu_busy_share: float | None = None
    energy_wh: float | None = None
    peak_memory_mib: float | None = None

    @classmethod
    def of(cls, labels: Mapping[str, Any]) -> Self:
        """Return what the labels of a flow run say."""
        return cls(**{field.name: labels.get(f"{_LABEL}{field.name}") for field in fields(cls)})

    def labels(self) -> dict[str, float]:
        """Return the labels of a flow run that held a device and has ended; of what is None, none."""
        return {f"{_LABEL}{name}": round(value, 3) for name, value in asdict(self).items() if value is not None}

    def after(self, earlier: Self) -> Self:
        """Return the use of all attempts of a run, this one and what those before it have told."""
        return replace(
            self,
            held_s=_total(earlier.held_s, self.held_s),
            gpu_busy_share=_mean(earlier, self),
            energy_wh=_total(earlier.energy_wh, self.energy_wh),
            peak_memory_mib=max(filter(None, (earlier.peak_memory_mib, self.peak_memory_mib)), default=None),
        )

    def sentence(self) -> str:
        """Return "held 67 s, first batch after 20.1 s, GPU 25 % busy, 4.1 Wh, 8,100 MiB"; of what is None, nothing."""
        parts = [
            None if self.held_s is None else f"held {_seconds(self.held_s)}",
            None if self.first_batch_s is None else f"first batch after {self.first_batch_s:.1f} s",
            None if self.gpu_busy_share is None else f"GPU {100 * self.gpu_busy_share:.0f} % busy",
            None if self.energy_wh is None else f"{self.energy_wh:.1f} Wh",
            None if self.peak_memory_mib is None else f"{self.peak_memory_mib:,.0f} MiB at most",
        ]
        return ", ".join(filter(None, parts))


def _total(*values: float | None) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _mean(*uses: SlotUse) -> float | None:
    """Return the mean of the GPU's utilisation over the time that each attempt held it."""
    known = [(use.held_s, use.gpu_busy_share) for use in uses if use.held_s and use.gpu_busy_share is not None]
    total = sum(held for held, _ in known)
    return sum(busy * (held / total) for held, busy in known) if known else None


def _seconds(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < _LONG_S else duration_text(seconds)


NO_USE = SlotUse()
"""Of which nothing is known."""
