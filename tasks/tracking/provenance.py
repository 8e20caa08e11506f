"""Records where a run comes from: code, packages, machine and command."""

import hashlib
import os
import platform
import re
import shlex
import socket
import subprocess
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from gpu_pools.names import asker
from gpu_pools.process.run_setup import PRIORITY, QUEUE

_ROOT = Path(__file__).resolve().parents[2]
_PACKAGES = ("torch", "torchvision", "prefect", "mlflow", "trainyard")
_SECRET_OPTION = re.compile(r"(?i)(pass|secret|token|credential|api[-_]?key|auth(?!or(?!iz)))")  # without an author
_HIDDEN = (
    # The last @ before the path: a password may have one, too.
    (re.compile(r"(\w://)[^/?#\s'\"]+@"), r"\1***@"),
    (re.compile(r"(?i)([?&][\w-]*(?:pass|secret|token|credential|api[-_]?key|auth|sig)[\w-]*=)[^&#\s'\"]+"), r"\1***"),
    (re.compile(r"(?i)(authorization['\"]?\s*[:=]\s*['\"]?)(?:(?:bearer|basic|digest|token)\s+)?[^\s'\",]+"), r"\1***"),
    (re.compile(r"(?i)\b(bearer\s+)[\w.~+/=-]+"), r"\1***"),
)


def standard_tags() -> dict[str, str]:
    """Return the tags every run gets; the `mlflow.` ones fill columns of its UI."""
    tags = {
        "mlflow.user": asker(),
        "owner": asker(),
        **{name: os.environ[key] for name, key in (("queue", QUEUE), ("priority", PRIORITY)) if os.environ.get(key)},
        "mlflow.source.name": Path(sys.argv[0]).name or "python",
        "mlflow.source.type": "LOCAL",
        "host": socket.gethostname(),
        "command": command_line(sys.argv),
        "platform": platform.platform(),
        "version.python": platform.python_version(),
        **{f"version.{name}": _version(name) for name in _PACKAGES},
    }
    lock = _ROOT / "requirements.lock"
    if lock.exists():
        tags["lock.sha256"] = hashlib.sha256(lock.read_bytes()).hexdigest()
    revision, dirty = git_revision(_ROOT)
    if revision:
        tags |= {"mlflow.source.git.commit": revision, "git.revision": revision + ("+dirty" if dirty else "")}
    return tags


def git_revision(root: Path) -> tuple[str | None, bool]:
    """Return the commit checked out at `root`, if any, and whether tracked files differ from it."""
    if not (root / ".git").exists():
        return None, False  # installed from a wheel: the folders above may be someone else's checkout
    revision = _git(root, "rev-parse", "HEAD")
    changes = _git(root, "status", "--porcelain", "--untracked-files=no")
    return revision, bool(changes)


def command_line(argv: list[str]) -> str:
    """Return the command as it could be typed, without what looks like a secret."""
    shown: list[str] = []
    hide_next = False
    for word in argv:
        name, equals, _ = word.partition("=")
        secret = bool(_SECRET_OPTION.search(name))
        if hide_next:
            word = "***"
        elif secret and equals:
            word = f"{name}=***"
        hide_next = secret and not equals and word.startswith("-")
        shown.append(word)
    return redacted(shlex.join(shown))


def redacted(text: str) -> str:
    """Return `text` without the passwords in its addresses and without what proves who asks."""
    for secret, shown in _HIDDEN:
        text = secret.sub(shown, text)
    return text


@cache
def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _git(root: Path, *args: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(root), *args], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):  # no git on this machine, or a checkout on a slow disk
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None
