"""Makes the message of `yard notices test`, and says to whom it goes."""

from datetime import UTC, datetime
from uuid import uuid4

from deployments.notices.messages import Message
from gpu_pools.names import asker, host_name
from gpu_pools.sharing.notice_settings import concerned
from gpu_pools.sharing.settings import YardSettings, settings_path
from tasks.base.errors import ConfigError


def chosen(settings: YardSettings, who: str | None) -> list[str]:
    """Return the recipients that a name means: one of them, or those who are told of this owner's runs; None: all.

    Raises:
        ConfigError: there is none.
    """
    to = settings.notices.to
    if who is None or who in to:
        found = [who] if who else list(to)
    else:
        found = [
            name
            for name, recipient in to.items()
            if any(concerned(recipient, kind, who, settings.groups) for kind in recipient.kinds)
        ]
    if not found:
        have = f"have: {', '.join(to)}" if to else "notices.to is empty"
        raise ConfigError(f"found nobody to tell {f'for {who!r} ' if who else ''}in {settings_path()}; {have}")
    return found


def try_message(name: str) -> Message:
    """Return a message that says what it is for."""
    return Message(
        *(str(uuid4()), "test", f"a test of the yard on {host_name()}"),
        text=f"{asker()} has tried whether {name} can be told of what happens to runs, devices and the disk. It works.",
        figures={"run": "none, this is a test", "owner": asker()},
        at=datetime.now(UTC).isoformat(timespec="seconds"),
    )
