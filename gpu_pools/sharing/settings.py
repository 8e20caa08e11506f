"""Reads the settings of a yard, `yard.yaml` in its home, which the people who run it write."""

import logging
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, ValidationError, model_validator

from gpu_pools.sharing.idle_settings import IdleSettings
from gpu_pools.sharing.notice_settings import NoticeSettings
from gpu_pools.sharing.share_settings import FairShareSettings, QuotaSettings
from tasks.base.errors import ConfigError
from tasks.base.outside import PARAMETER_BYTES, parse_yaml, read_text
from tasks.base.params import Params
from tasks.base.workspace import home

logger = logging.getLogger("trainyard.worker")

FILE = "yard.yaml"


class BookingSettings(Params):
    """What may be booked, and what becomes of a run that is still on a device when that is booked for somebody else."""

    overstay: Literal["stop", "wait"] = Field(
        "stop", description="stop: a training saves its state and goes on later; wait: the booking waits for its end"
    )

    hours_a_week: float | None = Field(
        None,
        gt=0,
        description="Of GPUs, that a person may have booked in a week, from Monday on; admins: more",
    )

    @property
    def stops(self) -> bool:
        """Whether a training is asked to make way."""
        return self.overstay == "stop"


class YardSettings(Params):
    """What a yard's people have agreed on; a name is `anna`, of whatever host, or `anna@boxa`."""

    admins: tuple[str, ...] = Field((), description="May change the runs of others")
    groups: dict[str, tuple[str, ...]] = Field({}, description="Name of a group: its members")
    notices: NoticeSettings = Field(NoticeSettings(), description="Who is told of what happens")
    bookings: BookingSettings = Field(BookingSettings(), description="How many; what becomes of what is in their way")
    idle: IdleSettings = Field(IdleSettings(), description="What becomes of slots that nobody uses")
    fair_share: FairShareSettings = Field(FairShareSettings(), description="How what people had lately counts")
    quotas: QuotaSettings = Field(QuotaSettings(), description="What people and groups may have")

    @model_validator(mode="after")
    def _check_quotas(self) -> Self:
        if unknown := sorted(self.quotas.groups.keys() - self.groups.keys()):
            known = ", ".join(self.groups) or "none"
            raise ValueError(f"found quotas of group {unknown[0]!r}, need one of groups: {known}")
        return self


def settings_path() -> Path:
    """Return where the settings lie."""
    return home() / FILE


def read_settings() -> YardSettings:
    """Return the settings as they are now; without a file the default ones hold.

    Raises:
        ConfigError: the file is no YAML, or a value of it is none; each fault with its place.
    """
    path = settings_path()
    if not path.exists():
        return YardSettings()
    content = parse_yaml(read_text(path, ConfigError, PARAMETER_BYTES), ConfigError, str(path))
    if content is None:
        return YardSettings()
    try:
        return YardSettings.model_validate(content)
    except ValidationError as exc:
        faults = [f"{path}: {'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in exc.errors()]
        raise ConfigError("\n".join(faults)) from exc


class SettingsReader:
    """The settings for who goes on for days, such as a worker: while the file is wrong, what it said before holds."""

    def __init__(self) -> None:
        self._known, self._fault = YardSettings(), ""

    def read(self) -> YardSettings:
        """Return the settings as they are now, or were before somebody made a mistake, which is said once."""
        try:
            self._known, self._fault = read_settings(), ""
        except ConfigError as exc:
            if str(exc) != self._fault:
                logger.error("%s; the settings before hold", exc)
            self._fault = str(exc)
        return self._known
