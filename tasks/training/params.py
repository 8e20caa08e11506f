"""What the parameters of every training say; each training has its own defaults."""

import re
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from tasks.base.params import Device, Params, Seed

Optimizer = Literal["adam", "adamw", "sgd"]
Schedule = Literal["none", "cosine"]
WarmupEpochs = Annotated[float, Field(ge=0, description="Linear rise of the learning rate at the start")]
EmaDecay = Annotated[float, Field(ge=0, lt=1, description="Average of the weights, used to validate; 0: off")]
ClipGradNorm = Annotated[float, Field(ge=0, description="Largest gradient norm; 0: not clipped")]
WantedPrecision = Annotated[
    Literal["auto", "fp32", "bf16", "fp16"],
    Field(description="auto: measured at the start, the fastest the device does well"),
]
Patience = Annotated[int, Field(ge=0, description="Stop after so many epochs without a better one; 0: never")]
Confidence = Annotated[
    float, Field(gt=0.5, lt=1, description="Share of bootstrap draws in which a new champion must be better")
]


NDevices = Annotated[
    int, Field(ge=1, le=64, description="GPUs of each host that share every batch; more than 1 needs device cuda")
]


def check_devices(device: str, n_devices: int, batch_size: int, n_hosts: int = 1) -> None:
    """Refuse a number of devices that cannot share a batch.

    Raises:
        ValueError: one device is named, or the batch is smaller.
    """
    if n_devices > 1 and not re.fullmatch(r"(.+/)?cuda", device):
        raise ValueError(f"n_devices {n_devices} needs device cuda or HOST/cuda, found {device!r}")
    if n_hosts > 1 and device != "cuda":
        raise ValueError(f"n_hosts {n_hosts} needs device cuda, found {device!r}")
    if n_devices * n_hosts > batch_size:
        text = f"n_devices {n_devices}" + (f" of n_hosts {n_hosts}" if n_hosts > 1 else "")
        raise ValueError(f"{text} needs a batch_size of at least that, found {batch_size}")


class DeviceParams(Params):
    """On how many devices of how many hosts a training computes."""

    device: Device
    n_devices: NDevices = 1
    n_hosts: Annotated[
        int,
        Field(
            ge=1, le=64, description="Hosts that train together, n_devices GPUs of each; more than 1 needs device cuda"
        ),
    ] = 1
    batch_size: int

    @property
    def n_processes(self) -> int:
        """How many processes train together, each on a device of its own."""
        return self.n_devices * self.n_hosts

    @property
    def n_local(self) -> int:
        """How many of these are on one host."""
        return self.n_devices

    @model_validator(mode="after")
    def _devices_share_a_batch(self) -> Self:
        check_devices(self.device, self.n_devices, self.batch_size, self.n_hosts)
        return self


class TrainingParams(DeviceParams):
    """What loop, optimiser and checkpoints need to know.

    A training gives the defaults that are its own, in the order of its form.
    """

    num_epochs: int
    optimizer: Optimizer
    learning_rate: float  # after the warm-up
    weight_decay: float  # of all that has more than one dimension
    momentum: Annotated[float, Field(ge=0, lt=1, description="Of SGD")] = 0.9
    schedule: Schedule
    warmup_epochs: WarmupEpochs
    ema_decay: EmaDecay
    clip_grad_norm: ClipGradNorm
    precision: WantedPrecision = "auto"
    patience: Patience = 0
    n_workers: int
    seed: Seed = 0
    deterministic: Annotated[bool, Field(description="The same result on a GPU too, slower")] = False
    checkpoint_every_s: Annotated[
        float, Field(gt=0, description="Seconds between checkpoints at most: what a crash can cost")
    ] = 300

    @property
    def n_moments(self) -> int:
        """How many numbers the optimiser keeps for each weight."""
        return 2 if self.optimizer != "sgd" else int(self.momentum > 0)

    @property
    def n_kept(self) -> int:
        """How many epochs there are whose weights are kept."""
        return 0

    @model_validator(mode="after")
    def _fp16_has_a_gpu(self) -> Self:
        if self.precision == "fp16" and self.device == "cpu":
            raise ValueError("precision fp16 needs a GPU, found device cpu: use bf16, fp32 or auto")
        return self


FREE_TO_CHANGE = frozenset({"device", "n_devices", "n_hosts", "n_workers", "checkpoint_every_s"})
"""Parameters of a training that may change between a crash and the resumption without changing the result."""
