"""Every command of the page on the life of things does what the page says."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from PIL import Image

from deployments.runs.find import find_run

PAGE = (Path(__file__).parents[2] / "docs" / "lifecycle.md").read_text()
LINES = [line for block in re.findall(r"```sh\n(.*?)```", PAGE, re.S) for line in block.splitlines() if line]
YARD = Path(sys.executable).parent / "yard"


@pytest.fixture
def there(yard, tmp_path):
    """What the page speaks of: two runs, one out of time, and a folder of images; return where the latter is."""
    yard.create("train_classifier", name="drones-resnet18", parameters={"dataset": "/d"})
    late = yard.create("train_classifier", name="drones-late", parameters={"dataset": "/d"})["id"]
    yard.state(late, "FAILED", "TimedOut", "stopped after 5 h, its time limit; what it saved is kept")
    for label in ("calm", "loud"):
        (tmp_path / "images" / label).mkdir(parents=True)
        Image.new("RGB", (300, 300)).save(tmp_path / "images" / label / "1.png")
    return tmp_path


def test_every_command_works(there, yard):
    assert len(LINES) >= 8
    for line in LINES:
        command = ["bash", "-c", line.replace("yard ", f"{YARD} ", 1)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ, cwd=there)
        refused = "# refused" in line
        assert done.returncode == int(refused), (line, done.stdout + done.stderr)
        said = r"error: need about .* of disk for 6 altered copies, found .* free at .*, of which .* have to stay free"
        assert bool(re.search(said, " ".join(done.stderr.split()))) is refused
    late = find_run(yard.api, "drones-late")
    assert (late["state_name"], late["job_variables"]["time_limit"]) == ("AwaitingRetry", "2h")


def test_the_page_names_every_rule_with_its_default():
    from tasks.housekeeping.params import KeepParams
    from tasks.housekeeping.receipt import RULES

    page = PAGE[: PAGE.index("## Schedules")]
    rows = {row[0]: row[1] for row in re.findall(r"^\| `(\w+)` \|.*\| ([^|]*) \|$", page, re.M)}
    assert [*rows] == [*RULES]
    for name, default in KeepParams().model_dump().items():
        assert f"`keep.{name}{'' if default is None else f'={default}'}`" in rows[name]


def test_the_page_names_every_schedule_as_it_is_shipped():
    deployments = yaml.safe_load((Path(__file__).parents[2] / "prefect.yaml").read_text())["deployments"]
    shipped = {s["slug"]: "on" if s["active"] else "off" for made in deployments for s in made.get("schedules", [])}
    assert dict(re.findall(r"^\| `(\w+)` \| `[\w/-]+` \|.*\| (on|off) \|$", PAGE, re.M)) == shipped
