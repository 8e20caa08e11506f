"""Every command of the page on the life of things does what the page says."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[2] / "docs" / "lifecycle.md").read_text()
LINES = [line for block in re.findall(r"```sh\n(.*?)```", PAGE, re.S) for line in block.splitlines() if line]
YARD = Path(sys.executable).parent / "yard"


@pytest.fixture
def there(yard):
    """What the page speaks of: a run that is called drones-resnet18."""
    yard.create("train_classifier", name="drones-resnet18", parameters={"dataset": "/d"})


def test_every_command_works(there):
    assert len(LINES) >= 4
    for line in LINES:
        words = shlex.split(line, comments=True)
        assert words[0] == "yard"
        done = subprocess.run([YARD, *words[1:]], capture_output=True, text=True, check=False, env=os.environ)
        assert done.returncode == 0, (line, done.stdout + done.stderr)


def test_the_page_names_every_rule_with_its_default():
    from tasks.housekeeping.params import KeepParams
    from tasks.housekeeping.receipt import RULES

    rows = {row[0]: row[1] for row in re.findall(r"^\| `(\w+)` \|.*\| ([^|]*) \|$", PAGE, re.M)}
    assert [*rows] == [*RULES]
    for name, default in KeepParams().model_dump().items():
        assert f"`keep.{name}{'' if default is None else f'={default}'}`" in rows[name]
