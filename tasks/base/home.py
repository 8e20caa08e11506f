"""Makes the folder of all state, closed to the other users of the host."""

import os
import re
import stat
from pathlib import Path

from tasks.base.errors import ConfigError
from tasks.base.workspace import home, storage_errors


def home_mode() -> int:
    """Return the mode of the home: TRAINYARD_HOME_MODE in octal digits, else 0750, so that others see nothing of it.

    Raises:
        ConfigError: it is no mode, or one that keeps its owner out.
    """
    word = os.environ.get("TRAINYARD_HOME_MODE", "").strip() or "0750"
    if not re.fullmatch("0?7[0-7]{2}", word):
        raise ConfigError(f"found TRAINYARD_HOME_MODE={word!r}, need a mode such as 0750, 0700 or 0755")
    return int(word, 8)


def make_home(*, close: bool = False) -> Path:
    """Return the home, made with its mode where it is missing.

    Args:
        close: one that is there, too, unless it is another user's or one for all, such as /tmp.

    Raises:
        ConfigError: TRAINYARD_HOME_MODE is no mode.
        StorageError: it cannot be made.
    """
    path, mode = home(), home_mode()
    with storage_errors(path):
        if not path.exists():
            path.mkdir(parents=True, exist_ok=True)
            path.chmod(mode)  # whatever the umask
        elif close:
            found = path.stat()
            extra = found.st_mode & 0o777 & ~mode
            if extra and found.st_uid == os.geteuid() and not found.st_mode & stat.S_ISVTX:
                path.chmod(stat.S_IMODE(found.st_mode) & ~extra)
    return path
