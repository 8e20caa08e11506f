"""The example of the section on who may change what: an owner, a stranger and the admins that it names."""

import os
import re
import subprocess
import sys
from pathlib import Path

from deployments.sharing.audit_file import read_lines
from gpu_pools.sharing.settings import settings_path

PAGE = (Path(__file__).parents[3] / "docs" / "sharing.md").read_text()
SECTION = PAGE.partition("\n## Who may change what\n")[2].partition("\n## ")[0]
YARD = Path(sys.executable).parent / "yard"


def call(who, line):
    command = ["bash", "-c", line.replace("yard ", f"{YARD} ", 1)]
    env = {**os.environ, "TRAINYARD_OWNER": who, "COLUMNS": "200"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    return done.returncode, done.stdout + done.stderr


def run_of(yard, name, owner):
    body = {"name": name, "parameters": {"dataset": "/d"}, "job_variables": {"owner": owner}}
    return yard.create("train_classifier", **body)["id"]


def test_who_may_is_as_the_page_says(yard):
    yard.home.mkdir()
    (settings,) = re.findall(r"```yaml\n(.*?)```", SECTION, re.S)
    settings_path().write_text(settings)
    refused, forced, audit = re.findall(r"```sh\n(.*?)```", SECTION, re.S)[0].splitlines()
    first = run_of(yard, "of-anna", "anna@boxa")
    code, said = call("ben@boxb", refused)
    assert code == 1
    assert "belongs to anna@boxa: only its owner and the yard's admins (anna, carl@boxb) may cancel it" in said
    assert yard.read(first)["state_type"] == "SCHEDULED"
    assert call("ben@boxb", forced)[0] == 0
    assert yard.read(first)["state_type"] == "CANCELLED"
    code, said = call("carl@boxb", audit)
    assert (code, said.count("ben@boxb") >= 2, "refused" in said) == (0, True, True)
    of_ben = run_of(yard, "of-ben", "ben@boxb")
    assert call("carl@boxc", "yard cancel of-ben")[0] == 1  # the carl of another host is no admin
    assert call("carl@boxb", "yard cancel of-ben")[0] == 0
    assert yard.read(of_ben)["state_type"] == "CANCELLED"
    results = [(line["who"], line["result"], line["force"]) for line in read_lines()[0] if line["result"] != "asked"]
    assert results == [
        ("ben@boxb", "refused", False),
        ("ben@boxb", "done", True),
        ("carl@boxc", "refused", False),
        ("carl@boxb", "done", False),
    ]
