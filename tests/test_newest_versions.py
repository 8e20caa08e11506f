"""The newest versions that the bounds of pyproject.toml allow keep what the yard relies on; a user's pip takes them."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.long, pytest.mark.timeout(5400)]

ROOT = Path(__file__).parent.parent
UV = Path(sys.executable).parent / "uv"
CONTRACTS = (
    "tests/deployments/services/test_services_happen.py",
    "tests/deployments/test_apply.py",
    "tests/chaos/test_schedules.py",
    "tests/tasks/tracking/test_tracker.py",
)
# As locked: gigabytes, and no part of what is tried here.
AS_LOCKED = re.compile(r"(torch|torchvision|triton|nvidia-\S+|cuda-\S+)==\S+")


def run(*words, **environ):
    env = {name: value for name, value in os.environ.items() if name not in ("PREFECT_API_URL", "VIRTUAL_ENV")}
    done = subprocess.run([str(word) for word in words], cwd=ROOT, env=env | environ, check=False)
    assert done.returncode == 0, words


def versions(text):
    return dict(re.findall(r"^(\S+?)==([^\s;\\]+)", text, re.MULTILINE))


def test_the_newest_versions_keep_the_contracts(tmp_path):
    locked = (ROOT / "requirements.lock").read_text()
    constraints, newest, python = (
        tmp_path / "constraints",
        tmp_path / "newest.txt",
        tmp_path / "venv" / "bin" / "python",
    )
    constraints.write_text("\n".join(found[0] for line in locked.splitlines() if (found := AS_LOCKED.match(line))))
    where = ("--python", sys.executable, "--constraint", constraints, "--output-file", newest, "--quiet")
    run(UV, "pip", "compile", "pyproject.toml", "--extra", "dev", "--upgrade", "--no-header", *where)
    before, now = versions(locked), versions(newest.read_text())
    print("not as locked:", {name: (before.get(name), new) for name, new in now.items() if before.get(name) != new})
    run(UV, "venv", "--quiet", "--python", sys.executable, python.parent.parent)
    run(UV, "pip", "install", "--quiet", "--python", python, "--requirement", newest, "setuptools")
    run(UV, "pip", "install", "--quiet", "--python", python, "--no-deps", "--no-build-isolation", "--editable", ROOT)
    run(python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "yard or long or not long", *CONTRACTS)
