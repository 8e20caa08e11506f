"""Pinned runs are listed, keep their other tags, and are let go again."""

import json
import subprocess
import sys
from pathlib import Path

YARD = Path(sys.executable).parent / "yard"


def command(*words):
    done = subprocess.run([YARD, *words], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def pinned():
    return [row["name"] for row in json.loads(command("pin", "--list", "--json")[1])]


def test_a_run_is_pinned_listed_and_let_go(yard):
    run = yard.create("train_classifier", name="drones", parameters={"dataset": "/d"}, tags=["mine"])
    code, said = command("pin", "drones")
    assert (code, said) == (0, f"run {run['id']} (drones) is pinned: nothing of it is removed\n")
    assert yard.read(run["id"])["tags"] == ["classification", "mine", "pinned"]
    assert "drones" in command("pin", "--list")[1]
    assert pinned() == ["drones"]
    assert command("unpin", run["id"][:8])[0] == 0
    assert yard.read(run["id"])["tags"] == ["classification", "mine"]
    assert command("pin", "--list") == (0, "no run is pinned\n")


def test_all_of_an_owner_are_pinned_and_let_go(yard):
    body = {"parameters": {"scene": "/s"}, "job_variables": {"owner": "pia@boxp"}}
    runs = [yard.create("train_splat", name=f"splat-{n}", **body) for n in range(2)]
    yard.state(runs[0]["id"], "COMPLETED")
    assert "need --yes" in command("pin", "--owner", "pia", "--force")[1]
    code, said = command("pin", "--owner", "pia", "--flow", "train_splat", "--force", "--yes")
    assert (code, said.count("is pinned")) == (0, 2)
    assert sorted(pinned()) == ["splat-0", "splat-1"]
    assert "no such runs" in command("pin", "--owner", "pia", "--force", "--yes")[1]
    assert command("unpin", "--owner", "pia", "--force", "--yes")[0] == 0
    assert pinned() == []


def test_what_is_no_run_or_too_much_is_refused(yard):
    assert command("pin", "nobody")[0] == 1
    assert "found no run 'nobody'" in command("unpin", "nobody")[1]
    for words in ((), ("a", "--list"), ("a", "--json")):
        code, said = command("pin", *words)
        assert (code, "need one of them" in said) == (1, True)
