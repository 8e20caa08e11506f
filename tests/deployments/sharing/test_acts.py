"""Two owners and an admin change runs of one server: who may, what is refused, and what is written down of it."""

import json
import os
import pty
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from deployments.cli.app import app
from deployments.lifecycle.pins import pinned_runs
from deployments.sharing.audit_file import audit_path, read_lines
from gpu_pools.names import ADMINS_VARIABLE, FROM_PAGE
from gpu_pools.sharing.settings import settings_path
from tasks.base.errors import ConfigError

YARD = Path(sys.executable).parent / "yard"


@pytest.fixture(autouse=True)
def _home(yard):
    yard.home.mkdir()


@pytest.fixture
def as_who(monkeypatch):
    """Return a function that runs `yard` as somebody, and returns what it prints."""

    def run(who, *words, code=0):
        monkeypatch.setenv("TRAINYARD_OWNER", who)
        done = CliRunner().invoke(app, list(map(str, words)))
        if isinstance(done.exception, ConfigError):
            raise done.exception
        assert done.exit_code == code, done.output
        return done.stdout

    return run


def training(yard, name, owner, state=None):
    run = yard.create(
        "train_classifier", name=name, parameters={"dataset": "/d"}, job_variables={"owner": owner} if owner else {}
    )
    if state:
        yard.state(run["id"], state)
    return run


def written(run):
    """Return act, result and --force of the lines on a run."""
    return [(line["act"], line["result"], line["force"]) for line in read_lines()[0] if line["target"] == run["id"]]


def outcomes(*names):
    """Return who has done what, in order: of each act that has ended these fields of its line."""
    return [tuple(line[name] for name in ("who", *names)) for line in read_lines()[0] if line["result"] != "asked"]


ACTS = [
    ("cancel", [], None),
    ("delete", ["--yes"], "COMPLETED"),
    ("priority", ["2"], None),
    ("move", ["--device", "cuda:1"], None),
    ("pin", [], None),
    ("unpin", [], None),
    ("resume", [], "FAILED"),
]
VERBS = {"priority": "prioritise"}


@pytest.mark.parametrize(("command", "words", "state"), ACTS, ids=[act[0] for act in ACTS])
def test_the_run_of_somebody_else_takes_force_or_an_admin(yard, as_who, command, words, state):
    verb = VERBS.get(command, command)
    run = training(yard, f"of-anna-{command}", "anna@boxa", state)
    with pytest.raises(
        ConfigError, match=rf"^run {run['id']} \(of-anna-{command}\) belongs to anna@boxa: only its own"
    ):
        as_who("ben@boxa", command, run["id"], *words)
    assert written(run) == [(verb, "refused", False)]
    as_who("ben@boxa", command, run["id"], *words, "--force")
    assert written(run)[1:] == [(verb, "asked", True), (verb, "done", True)]
    settings_path().write_text("admins: [carl]\n")
    for who in ("anna@boxb", "carl@boxc"):
        run = training(yard, f"again-{command}", "anna@boxa", state)
        as_who(who, command, run["id"], *words)
        assert written(run) == [(verb, "asked", False), (verb, "done", False)]
    for found in pinned_runs(yard.api):  # the server is other tests', too
        as_who("carl@boxa", "unpin", found["id"])


@pytest.mark.parametrize("owner", ["", FROM_PAGE])
def test_a_run_of_the_page_anybody_may_cancel(yard, as_who, owner):
    run = training(yard, "from the page", owner)
    as_who("ben@boxa", "cancel", run["id"])
    assert yard.read(run["id"])["state_type"] == "CANCELLED"


def test_limits_are_the_admins_where_there_are_any(yard, as_who):
    as_who("ben@boxa", "limit", "cuda:1", "training=2")
    settings_path().write_text("admins: [carl]\n")
    with pytest.raises(ConfigError, match=r"^device cuda:1 belongs to the yard: only the yard's admins \(carl\) may"):
        as_who("ben@boxa", "limit", "cuda:1", "training=3")
    assert json.loads(as_who("ben@boxa", "limit", "cuda:1", "--json"))[1]["limit"] == 2
    as_who("ben@boxa", "limit", "cuda:1", "training=3", "--force")
    as_who("carl@boxa", "limit", "cuda:1", "training=1")
    assert outcomes("result", "details") == [
        ("ben@boxa", "done", "training=2"),
        ("ben@boxa", "refused", "training=3"),
        ("ben@boxa", "done", "training=3"),
        ("carl@boxa", "done", "training=1"),
    ]


def test_the_admins_of_the_server_hold_for_a_home_without_settings(yard, as_who):
    yard.api.call("POST", "/variables/", {"name": ADMINS_VARIABLE, "value": ["carl"]})
    try:
        run = training(yard, "server's admins", "anna@boxa")
        with pytest.raises(ConfigError, match=r"the yard's admins \(carl\) may"):
            as_who("ben@boxa", "cancel", run["id"])
        as_who("carl@boxz", "cancel", run["id"])
    finally:
        yard.api.call("DELETE", f"/variables/name/{ADMINS_VARIABLE}")


def test_schedules_are_their_makers_or_the_admins(yard, as_who):
    words = ("schedule", "housekeeping", "--every", "7d", "--json")
    (made,) = json.loads(as_who("anna@boxa", *words))
    try:
        settings_path().write_text("admins: [carl]\n")
        with pytest.raises(ConfigError, match=r"belongs to the yard: only the yard's admins \(carl\) may pause it"):
            as_who("ben@boxa", "schedule", "--pause", made["id"])
        as_who("carl@boxa", "schedule", "--pause", made["id"])
    finally:
        as_who("ben@boxa", "schedule", "--remove", made["id"], "--force")
    assert outcomes("act", "result") == [
        ("anna@boxa", "schedule", "done"),
        ("ben@boxa", "pause", "refused"),
        ("carl@boxa", "pause", "done"),
        ("ben@boxa", "remove", "done"),
    ]


def test_a_line_says_who_from_where_what_and_nothing_secret(yard, as_who, monkeypatch):
    monkeypatch.setenv("SSH_CONNECTION", "192.0.2.7 50022 192.0.2.1 22")
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", "yard:hunter2-hunter2")
    run = training(yard, "told", "anna@boxa")
    as_who("anna@boxa", "cancel", run["id"])
    asked, done = read_lines()[0]
    assert (asked["id"], asked["result"], done["result"]) == (done["id"], "asked", "done")
    assert (done["who"], done["client"], done["pid"]) == ("anna@boxa", "192.0.2.7", os.getpid())
    assert (done["act"], done["kind"], done["target"], done["name"]) == ("cancel", "run", run["id"], "told")
    assert (done["owner"], done["force"], done["account"] != "") == ("anna@boxa", False, True)
    assert "hunter2" not in audit_path().read_text()


def test_what_fails_is_written_as_failed(yard, as_who):
    run = training(yard, "lives", "anna@boxa", "RUNNING")
    with pytest.raises(ConfigError, match="a priority counts while it waits"):
        as_who("anna@boxa", "priority", run["id"], "2")
    assert written(run) == [("prioritise", "asked", False), ("prioritise", "failed", False)]
    assert "a priority counts while it waits" in read_lines()[0][-1]["said"]


def test_an_act_is_not_kept_from_happening_by_a_full_disk(yard, as_who, capfd):
    audit_path().mkdir()  # cannot be written
    run = training(yard, "full", "anna@boxa")
    as_who("anna@boxa", "cancel", run["id"])
    assert yard.read(run["id"])["state_type"] == "CANCELLED"


KILLED = """
import os, signal
from deployments.runs import run_actions
def die(api, run):
    {before}
    os.kill(os.getpid(), signal.SIGKILL)
real, run_actions.cancel = run_actions.cancel, die
from deployments.cli.app import app
app(["cancel", {run!r}])
"""


@pytest.mark.parametrize(("before", "state"), [("", "SCHEDULED"), ("real(api, run)", "CANCELLED")])
def test_an_act_whose_process_is_killed_before_or_after_it_is_known_as_asked_for(yard, before, state):
    run = training(yard, "killed", "anna@boxa")
    code = KILLED.format(before=before, run=run["id"])
    env = {**os.environ, "TRAINYARD_OWNER": "anna@boxa"}
    assert subprocess.run([sys.executable, "-c", code], env=env, check=False).returncode == -9
    assert yard.read(run["id"])["state_type"] == state
    assert written(run) == [("cancel", "asked", False)]
    assert "asked" in CliRunner().invoke(app, ["audit", "--run", run["id"]]).stdout


# Filters, and a question in a terminal.


def test_all_means_what_the_options_leave_and_only_what_is_ones_own(yard, as_who):
    own = [training(yard, f"hers-{n}", "all-anna@boxa") for n in range(2)]
    other = training(yard, "bens", "all-ben@boxa")
    text = as_who("all-anna@boxb", "cancel", "--all", "--waiting", "--owner", "me", "--flow", "train_classifier", "-y")
    assert "bens" not in text
    assert [yard.read(run["id"])["state_type"] for run in (*own, other)] == ["CANCELLED", "CANCELLED", "SCHEDULED"]
    with pytest.raises(ConfigError, match="^none of them is yours to cancel: --force does it all the same"):
        as_who("all-anna@boxb", "cancel", "--owner", "all-ben", "-y")
    assert written(other) == []
    assert "  bens\n" in as_who("all-anna@boxb", "cancel", "--owner", "all-ben", "-y", "--force")


def test_priority_and_delete_take_the_same_options(yard, as_who):
    own = [training(yard, f"filtered-{n}", "fil@boxa") for n in range(2)]
    assert as_who("fil@boxa", "priority", "--owner", "me", "1", "-y").count("has priority 1 now") == 2
    as_who("fil@boxa", "cancel", "--owner", "me", "-y")
    assert as_who("fil@boxa", "delete", "--owner", "me", "-y").count("removed record") == 2
    assert {written(run)[-1] for run in own} == {("delete", "done", False)}
    with pytest.raises(ConfigError, match="^found the priority '11', need a number from 1"):
        as_who("fil@boxa", "priority", own[0]["id"], "11")
    for words in (["priority", "2"], ["delete"], ["delete", "x", "--all"]):
        with pytest.raises(ConfigError, match="need runs, or options that say which"):
            as_who("fil@boxa", *words)


@pytest.mark.parametrize(("answer", "state"), [("n", "SCHEDULED"), ("y", "CANCELLED")])
def test_a_terminal_is_asked(yard, answer, state):
    run = training(yard, "asked for", "pty@boxa")
    env = {**os.environ, "TRAINYARD_OWNER": "pty@boxa"}
    there, here = pty.openpty()
    command = [YARD, "cancel", "--owner", "me"]
    with subprocess.Popen(command, env=env, stdin=here, stdout=subprocess.PIPE, text=True) as process:
        time.sleep(0.5)
        os.write(there, f"{answer}\n".encode())
        out, _ = process.communicate(timeout=60)
    os.close(there)
    os.close(here)
    assert "cancel 1 run?" in out
    assert process.returncode == (0 if answer == "y" else 1)
    assert yard.read(run["id"])["state_type"] == state
    said = [line["terminal"].startswith("/dev/pts/") for line in read_lines()[0]]
    assert said == ([True, True] if answer == "y" else [])
    yard.state(run["id"], "CANCELLED")
