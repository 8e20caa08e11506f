"""How a run used its slot: three numbers, as labels of its flow run and as a sentence."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
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
        gpu_busy_share: mean of the GPU's utilisation, in [0, 1]; None also on the CPU.
    """

    held_s: float | None = None
    first_batch_s: float | None = None
    gpu_busy_share: float | None = None

    @classmethod
    def of(cls, labels: Mapping[str, Any]) -> Self:
        """Return what the labels of a flow run say."""
        return cls(**{field.name: labels.get(f"{_LABEL}{field.name}") for field in fields(cls)})

    def labels(self) -> dict[str, float]:
        """Return the labels of a flow run that held a device and has ended; of what is None, none."""
        return {f"{_LABEL}{name}": round(value, 3) for name, value in asdict(self).items() if value is not None}

    def sentence(self) -> str:
        """Return "held 67 s, first batch after 20.1 s, GPU 25 % busy"; of what is None, nothing."""
        parts = [
            None if self.held_s is None else f"held {_seconds(self.held_s)}",
            None if self.first_batch_s is None else f"first batch after {self.first_batch_s:.1f} s",
            None if self.gpu_busy_share is None else f"GPU {100 * self.gpu_busy_share:.0f} % busy",
        ]
        return ", ".join(filter(None, parts))


def _seconds(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < _LONG_S else duration_text(seconds)
