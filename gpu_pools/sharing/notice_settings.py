"""Settings of the notices of a yard: who is told what, and how."""

import os
import stat
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Literal, Self, get_args
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator, model_validator

from gpu_pools.sharing.durations import seconds_of
from tasks.base.errors import ConfigError
from tasks.base.outside import read_text
from tasks.base.params import MaybePath, Params
from tasks.base.workspace import home

Kind = Literal[
    "started",
    "finished",
    "failed",
    "refused",
    "stopping-soon",
    "booking-soon",
    "idle",
    "device-lost",
    "disk-low",
]
"""What there is to tell."""

KINDS: tuple[Kind, ...] = get_args(Kind)
_SECRET_BYTES = 10_000
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_NAME = r"^[a-z0-9][a-z0-9-]{0,60}$"
_MAIL = r"^[^\s@<>,;]+@[^\s@<>,;]+$"


class MailServer(Params):
    """Where e-mail is handed in."""

    server: Annotated[str, Field(min_length=1, description="Name or address of the SMTP server")]
    port: Annotated[int, Field(ge=1, le=65_535)] = 587
    security: Annotated[Literal["starttls", "tls", "none"], Field(description="tls: from the first byte on")] = (
        "starttls"
    )
    user: Annotated[str, Field(description="Empty: without a login")] = ""
    password: SecretStr | None = None
    password_file: Annotated[MaybePath, Field(description="Of mode 0600; relative to the home")] = None
    sender: Annotated[str, Field(pattern=r"^[^\r\n]*@[^\r\n]*$", description="Trainyard <yard@lab.example>")]

    @model_validator(mode="after")
    def _check_login(self) -> Self:
        if self.password is not None and self.password_file is not None:
            raise ValueError("found password and password_file, need one of them")
        if self.user and self.password is None and self.password_file is None:
            raise ValueError(f"found user {self.user!r} without a password: need password_file")
        if self.user and self.security == "none" and self.server not in _LOOPBACK:
            raise ValueError("found a login with security none: all could read the password, need starttls")
        return self


class Recipient(Params):
    """A person, a group or a channel: what it is told, and by which one way."""

    owners: Annotated[tuple[str, ...], Field(description="Names and groups whose runs; empty: everybody's")] = ()
    kinds: Annotated[tuple[Kind, ...], Field(min_length=1)] = KINDS
    mail: Annotated[str, Field(pattern=_MAIL)] | None = None
    slack: SecretStr | None = None
    slack_file: MaybePath = None
    webhook: SecretStr | None = None
    webhook_file: MaybePath = None

    @field_validator("slack", "webhook")
    @classmethod
    def _check_url(cls, url: SecretStr | None) -> SecretStr | None:
        if url is not None:
            check_url(url.get_secret_value(), https=False)
        return url

    @model_validator(mode="after")
    def _check_way(self) -> Self:
        given = [name for name in ("mail", "slack", "slack_file", "webhook", "webhook_file") if getattr(self, name)]
        if len(given) != 1:
            raise ValueError(f"found {', '.join(given) or 'none'}, need one of mail, slack_file or webhook_file")
        if self.slack is not None:
            check_url(self.slack.get_secret_value(), https=True)
        return self

    @property
    def way(self) -> Literal["mail", "slack", "webhook"]:
        """Return how it is told."""
        if self.mail is not None:
            return "mail"
        return "slack" if self.slack is not None or self.slack_file is not None else "webhook"


class NoticeSettings(Params):
    """Who is told of what happens to runs, devices and the disk; nobody without recipients."""

    to: Annotated[dict[Annotated[str, Field(pattern=_NAME)], Recipient], Field(description="Name: recipient")] = {}
    mail: MailServer | None = None
    waited: Annotated[str, Field(description="A run that waited longer tells when it starts: 10m")] = "10m"
    prefect_url: Annotated[str, Field(pattern=r"^(https?://\S+)?$", description="Of links; empty: as here")] = ""
    mlflow_url: Annotated[str, Field(pattern=r"^(https?://\S+)?$", description="Of links; empty: as here")] = ""

    @field_validator("waited")
    @classmethod
    def _check_waited(cls, text: str) -> str:
        seconds_of(text)
        return text

    @model_validator(mode="after")
    def _check_mail(self) -> Self:
        if lost := [name for name, recipient in self.to.items() if recipient.mail is not None and self.mail is None]:
            raise ValueError(f"found {lost[0]} with an e-mail address, need mail: with a server and a sender")
        return self


def check_url(url: str, *, https: bool) -> None:
    """Hold the address of a webhook against what there is; the message does not repeat it, as it is a secret.

    Raises:
        ValueError: it is none.
    """
    parts = urlsplit(url)
    if parts.scheme not in (("https",) if https else ("http", "https")) or not parts.hostname:
        raise ValueError(f"found no address of {'https' if https else 'http or https'}, need one with a host")


def secret_of(given: SecretStr | None, file: Path | None, settings: Path) -> str:
    """Return a secret, from the settings or from its file.

    Args:
        given: it stands in the settings themselves.
        file: it stands there, relative to the home.
        settings: the file of settings.

    Raises:
        ConfigError: others can read it, or the file is empty or missing.
    """
    if given is not None:
        _check_closed(settings, "it holds a secret of the notices: `chmod 600` it, or name a file of its own")
        return given.get_secret_value()
    assert file is not None
    path = home() / file.expanduser()
    text = read_text(path, ConfigError, _SECRET_BYTES).strip()
    _check_closed(path, f"`chmod 600 {path}`, and change what is in it")
    if not text:
        raise ConfigError(f"found nothing in {path}, need the secret in one line")
    return text


def address_of(recipient: Recipient, settings: Path) -> str:
    """Return the address of a webhook, or of Slack's.

    Args:
        recipient: that has one.
        settings: the file of settings.

    Raises:
        ConfigError: it is none, or others can read it.
    """
    slack = recipient.way == "slack"
    given, file = (recipient.slack, recipient.slack_file) if slack else (recipient.webhook, recipient.webhook_file)
    url = secret_of(given, file, settings)
    try:
        check_url(url, https=slack)
    except ValueError as exc:
        raise ConfigError(f"{file or settings}: {exc}") from exc
    return url


def _check_closed(path: Path, todo: str) -> None:
    if stat.S_IMODE(os.stat(path).st_mode) & 0o077:
        raise ConfigError(f"found {path} open to others: {todo}")


def names(owner: str) -> set[str]:
    """Return the names by which settings may mean an owner: `anna@boxa`, and `anna` of whatever host."""
    return {owner, owner.partition("@")[0]} - {""}


def concerned(recipient: Recipient, kind: Kind, owner: str, groups: dict[str, tuple[str, ...]]) -> bool:
    """Return whether a recipient is told of something of an owner's.

    Args:
        recipient: the one.
        kind: of what there is to tell.
        owner: `anna@boxa`; empty: nobody's, so only who is told of everybody's is concerned.
        groups: name -> members.
    """
    if kind not in recipient.kinds:
        return False
    return not recipient.owners or bool(names(owner) & set(_members(recipient.owners, groups)))


def _members(owners: Collection[str], groups: dict[str, tuple[str, ...]]) -> set[str]:
    return {*owners, *(member for owner in owners for member in groups.get(owner, ()))}
