"""`yard shares` against a real server, quotas in a terminal without any, and the example of the page."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from deployments.cli.app import app

BIN = Path(sys.executable).parent
PAGE = (Path(__file__).parents[3] / "docs" / "sharing.md").read_text()
SECTION = PAGE.partition("\n## Quotas\n")[2].partition("\n## ")[0]


def said(line):
    done = CliRunner().invoke(app, line.split()[1:])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.stdout


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home with the settings of the page."""
    (yaml,) = re.findall(r"```yaml\n(.*?)```", SECTION, re.S)
    monkeypatch.setenv("TRAINYARD_HOME", str(tmp_path))
    (tmp_path / "yard.yaml").write_text(yaml)
    return tmp_path


def test_the_example_of_the_page_says_who_had_what_and_what_is_left(history, home):
    (commands,) = re.findall(r"```sh\n(.*?)```", SECTION, re.S)
    everybody, anna = commands.splitlines()
    rows = [line.split() for line in said(everybody).splitlines()]
    assert [row[-4:] for row in rows if row[0] == "hist"] == [["3", "of", "3", "slots"]]
    assert rows[-1][:2] == ["group", "vision"]
    (row,) = said(anna).splitlines()[1:]
    assert re.fullmatch(r"anna +0% +0\.0 +0\.0 +0 +2 of 2 slots, 100\.0 of 100 GPU h *", row)
    found = {row["who"]: row for row in json.loads(said(f"{everybody} --json"))}
    assert 0 < found["hist"]["week_h"] < found["hist"]["lately_h"] + 0.001
    assert sum(row["share"] for who, row in found.items() if not who.startswith("group")) == pytest.approx(1)
    assert (found["anna"]["hours_left"], found["anna"]["more_from"], found["hist"]["hours_quota"]) == (
        100.0,
        None,
        None,
    )


@pytest.fixture
def terminal(home, monkeypatch):
    """Two simulated GPUs, no server, and anna at the keyboard."""
    for name in ("PREFECT_API_URL", "PREFECT_HOME", "MLFLOW_TRACKING_URI", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TRAINYARD_LOCK_DIR", str(home / "locks"))
    monkeypatch.setenv("TRAINYARD_SIMULATE_GPUS", "2")
    monkeypatch.setenv("TRAINYARD_OWNER", "anna@boxa")


@pytest.mark.long
@pytest.mark.usefixtures("terminal")
def test_without_a_server_a_terminal_obeys_too(home):
    command = [BIN / "yard", "exec", "--device", "cuda", "--when-busy", "refuse", "--", "sleep", "1"]

    def runs():
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=200)

    (home / "yard.yaml").write_text("quotas: {owners: {anna: {gpu_hours: 0.0001}}}\n")
    assert runs().returncode == 0
    second = runs()
    assert second.returncode == 1
    assert "anna had 0.0 of 0.0001 GPU hours in 7 days (quota): more from " in second.stderr
    shares = subprocess.run([BIN / "yard", "shares", "--json"], capture_output=True, text=True, check=True, timeout=100)
    (row,) = json.loads(shares.stdout)
    assert (row["who"], row["share"], row["hours_left"]) == ("anna", 1.0, 0.0)


@pytest.mark.long
@pytest.mark.usefixtures("terminal")
def test_a_program_waits_for_a_slot_of_its_owners_quota_though_a_gpu_is_free(home):
    (home / "yard.yaml").write_text("quotas: {owners: {anna: {slots: 1}}}\n")
    command = [BIN / "yard", "exec", "--device", "cuda", "--"]
    code = "import pathlib, sys; print('runs', flush=True); input(); pathlib.Path(sys.argv[1]).touch()"
    with subprocess.Popen(
        [*command, sys.executable, "-c", code, home / "ended"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as first:
        assert first.stdout is not None
        assert "runs\n" in iter(first.stdout.readline, "")
        look = "import pathlib, sys; print(pathlib.Path(sys.argv[1]).exists())"
        with subprocess.Popen(
            [*command, sys.executable, "-c", look, home / "ended"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as second:
            assert second.stderr is not None
            reason = next(line for line in iter(second.stderr.readline, "") if "INFO    waits: " in line)
            assert "anna: 1 of 1 GPU slots taken (quota): cuda:0 has python of anna@boxa" in reason
            first.communicate("\n", timeout=200)
            assert second.communicate(timeout=200)[0].splitlines()[-1] == "True"
    assert (first.returncode, second.returncode) == (0, 0)
