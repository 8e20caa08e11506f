"""Parameters of a run of a person's own command."""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from tasks.base.params import Device, Params


class ProgramParams(Params):
    """A command, and what it computes on; what may hold secrets stays in this process."""

    command: Annotated[str, Field(description="As it was typed, without what looks like a secret")]
    folder: Annotated[str, Field(description="In which it runs")]
    device: Device = "cuda"
    n_devices: Annotated[int, Field(ge=1, description="That it needs at once, of one host")] = 1
    words: Annotated[tuple[str, ...], Field(min_length=1, exclude=True, repr=False)]
    environment: Annotated[dict[str, str], Field(exclude=True, repr=False)]


class SessionParams(ProgramParams):
    """An interactive program, and when it ends that does not end by itself."""

    lasts: Annotated[float | None, Field(gt=0, description="Seconds from the slot on; None: for ever")] = None
    idle: Annotated[float | None, Field(gt=0, description="Seconds without use; None: for ever")] = None
    is_shell: bool = False


def name_of(words: tuple[str, ...]) -> str:
    """Return what people call a command: its script, else its program."""
    script = next((word for word in words[1:] if word.endswith((".py", ".sh"))), words[0])
    return Path(script).name
