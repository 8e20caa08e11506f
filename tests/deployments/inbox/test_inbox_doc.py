"""The worked examples of the chapters on the inbox and on runs without a server do what the page says."""

import json
import os
import re
import subprocess
from pathlib import Path

from tests.deployments.inbox.drops import images
from tests.deployments.inbox.test_inbox_service import YARD, ended, environment, home, yard
from tests.deployments.waiting import wait_for

__all__ = ["home"]

PAGE = (Path(__file__).parents[3] / "docs" / "lifecycle.md").read_text()


def example(chapter, folder, env):
    """Run the example of a chapter in a folder that holds `bands`, and return what it prints."""
    text = PAGE[PAGE.index(f"## {chapter}\n") :].partition("\n## ")[0]
    (block,) = re.findall(r"```bash\n(.*?)```", text, re.S)
    images(folder / "bands")
    env = {**env, "PATH": f"{YARD.parent}:{os.environ['PATH']}"}
    ran = subprocess.run(["bash", "-euc", block], cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def test_what_ran_here_is_read_without_a_server(tmp_path):
    own = tmp_path / "home"
    said = example("What ran here, without a server", tmp_path, environment(own))
    assert f"no server is up; the records of this host, in {own}:" in said
    assert "12 images of 2 classes: 8 train, 2 val, 2 test" in said
    assert "took " in said


def test_what_is_copied_to_the_inbox_becomes_a_run(home, tmp_path):
    example("The inbox", tmp_path, environment(home))
    (run,) = wait_for(lambda: ended(home, "bands"), 120)
    assert run["type"] == "COMPLETED"
    assert (home / "inbox" / "done" / run["name"] / "bands.yaml").read_text() == "split: {seed: 5}\n"


def test_what_is_sent_from_another_machine_becomes_a_run(home, tmp_path):
    mlflow = json.loads((home / "services.json").read_text())["mlflow"]
    env = {**environment(tmp_path / "laptop"), "MLFLOW_TRACKING_URI": mlflow}
    said = example("From another machine", tmp_path, env)
    known = json.loads(yard(home, "runs", "--flow", "split_images", "--json").stdout)
    run = next(run for run in known if run["id"] in said)
    assert said == f"run {run['id']}: `yard show {run['short']}` there\n"
