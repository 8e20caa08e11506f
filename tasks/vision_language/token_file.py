"""Reads the token of a gate from a file that nobody else can read."""

import os
import stat
from pathlib import Path

from tasks.base.errors import ConfigError
from tasks.base.outside import read_text

_MAX_BYTES = 4096
_SHORTEST = 16


def read_token(path: Path) -> str:
    """Return the token in a file that nobody else can read.

    Raises:
        ConfigError: it is missing, others can read it, or the token is short or no plain word.
    """
    text = read_text(path, ConfigError, _MAX_BYTES).strip()
    found = os.stat(path)
    if stat.S_IMODE(found.st_mode) & 0o077:
        raise ConfigError(f"found {path} open to others: `chmod 600 {path}`, and change what is in it")
    if len(text) < _SHORTEST or not text.isascii() or any(sign.isspace() for sign in text):
        raise ConfigError(f"found no word of at least {_SHORTEST} ASCII signs, need one as token in {path}")
    return text
