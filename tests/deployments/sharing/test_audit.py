"""What `yard audit` tells: acts of this home and of others, and what Prefect says of what was done in it."""

import csv
import io
import json
import time

import pytest
from typer.testing import CliRunner

from deployments.cli.app import app
from deployments.services.programs import prefect_service
from deployments.services.service import free_port, running
from deployments.sharing.audit import PAGE, ActRow, known_acts
from deployments.sharing.audit_file import append
from tests.deployments.conftest import connected, server_environment


@pytest.fixture(scope="module")
def api(server_home):
    """A server that keeps events, as that of `yard up` does, with a queue and a deployment."""
    with server_environment(server_home):
        with running(prefect_service(free_port(), ui=False)) as service, connected(f"{service.url}/api") as api:
            api.call("POST", "/work_pools/", {"name": "gpu", "type": "gpu-process"})
            for name in ("cuda:1.training", "boxb.cuda:1.training"):
                api.call("POST", "/work_pools/gpu/queues", {"name": name, "concurrency_limit": 1})
            yield api


@pytest.fixture
def person(api, monkeypatch, tmp_path):
    """Return a function that runs `yard` as somebody with a home of theirs, and returns what it prints."""
    monkeypatch.setenv("PREFECT_API_URL", api.url)

    def run(who, *words):
        monkeypatch.setenv("TRAINYARD_OWNER", who)
        monkeypatch.setenv("TRAINYARD_HOME", str(tmp_path / who))
        done = CliRunner().invoke(app, list(map(str, words)))
        assert done.exit_code == 0, done.output
        return done.stdout

    return run


def make(api, name, owner="anna@boxa", running=False):
    flow = api.call("POST", "/flows/", {"name": "fit"})
    wanted = {"name": "fit", "flow_id": flow["id"], "work_pool_name": "gpu", "work_queue_name": "cuda:1.training"}
    deployment = api.call("POST", "/deployments/", wanted)
    body = {"name": name, "job_variables": {"owner": owner}}
    run = api.call("POST", f"/deployments/{deployment['id']}/create_flow_run", body)
    if running:
        state(api, run, "RUNNING")
    return run


def state(api, run, kind, message=None, force=True):
    body = {"state": {"type": kind, "name": kind.capitalize(), "message": message}, "force": force}
    api.call("POST", f"/flow_runs/{run['id']}/set_state", body)


def acts(person, *words, until):
    """Return the acts that `yard audit` tells somebody who has done none, once there are so many."""
    deadline = time.monotonic() + 30
    while True:
        rows = json.loads(person("reader@boxz", "audit", "--format", "json", *words))
        if len(rows) >= until or time.monotonic() > deadline:
            return rows
        time.sleep(0.3)


def test_an_act_is_known_on_all_hosts_once(api, person, tmp_path):
    (tmp_path / "anna@boxa").mkdir()  # a home; ben has none
    first, second = make(api, "one"), make(api, "two")
    person("anna@boxa", "cancel", "one")
    person("ben@boxb", "cancel", "two", "--force")
    for row, run, who, force in zip(
        acts(person, until=2), (first, second), ("anna@boxa", "ben@boxb"), (False, True), strict=True
    ):
        assert (row["who"], row["act"], row["result"], row["force"]) == (who, "cancel", "done", force)
        assert (row["target"], row["name"], row["owner"]) == (run["id"], run["name"], "anna@boxa")
    assert not (tmp_path / "ben@boxb").exists()
    assert len(json.loads(person("anna@boxa", "audit", "--format", "json"))) == 2  # her file and the events are one
    (row,) = acts(person, "--who", "ben", until=1)
    assert row["name"] == "two"
    (row,) = acts(person, "--run", first["id"][:8], until=1)
    assert row["name"] == "one"
    table = list(csv.DictReader(io.StringIO(person("reader@boxz", "audit", "--format", "csv"))))
    assert [row["who"] for row in table] == ["anna@boxa", "ben@boxb"]
    assert list(table[0]) == list(ActRow.__slots__)
    text = " ".join(person("reader@boxz", "audit").split())
    assert "cancel --force" in text
    assert json.loads(person("reader@boxz", "audit", "--format", "json", "--since", "1s")) == []


def test_what_is_done_in_prefect_itself_is_told_without_a_name(api, person):
    runs = {name: make(api, name, running=name != "waits") for name in ("waits", "runs", "refused", "retried")}
    state(api, runs["waits"], "CANCELLING", force=False)  # as the page does
    state(api, runs["runs"], "CANCELLING")
    state(api, runs["runs"], "CANCELLED", "ended by its worker")
    state(api, runs["refused"], "CANCELLED", "cuda:1 is taken")
    state(api, runs["retried"], "FAILED", "boom")
    again = {"type": "SCHEDULED", "name": "AwaitingRetry", "message": "Retry from the UI"}
    api.call("POST", f"/flow_runs/{runs['retried']['id']}/set_state", {"state": again, "force": True})
    queue = "/work_pools/gpu/queues/cuda:1.training"
    api.call("PATCH", queue, {"is_paused": True})
    api.call("PATCH", queue, {"is_paused": False})
    api.call("PATCH", queue, {"concurrency_limit": 3})
    rows = acts(person, "--who", PAGE, until=5)
    assert {(row["act"], row["kind"], row["name"], row["details"]) for row in rows} == {
        ("cancel", "run", "waits", ""),
        ("cancel", "run", "runs", ""),
        ("resume", "run", "retried", ""),
        ("pause", "queue", "cuda:1.training", ""),
        ("change", "queue", "cuda:1.training", "concurrency_limit 1 -> 3"),
    }


def test_a_limit_of_the_yard_is_told_once(api, person):
    person("carl@boxa", "limit", "cuda:1", "training=2")
    assert len(acts(person, "--who", "carl", until=1)) == 1
    rows = [row for row in acts(person, until=1) if row["details"].endswith("2")]
    assert [(row["who"], row["act"], row["details"]) for row in rows] == [("carl@boxa", "limit", "training=2")]


def test_more_events_than_a_page_are_read(api, person):
    run = make(api, "many")
    for n in range(0, 130, 10):
        rows = [
            {
                "id": f"00000000-0000-4000-8000-{k:012d}",
                "event": "trainyard.audit.pin",
                "occurred": run["created"],
                "resource": {"prefect.resource.id": f"prefect.flow-run.{run['id']}"},
                "payload": {"id": str(k), "at": run["created"], "who": "many@boxa", "act": "pin", "result": "done"},
            }
            for k in range(n, n + 10)
        ]
        api.call("POST", "/events", rows)
    assert len(acts(person, "--who", "many", until=130)) == 130


def test_without_a_server_this_home_is_read(monkeypatch, tmp_path):
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.setenv("TRAINYARD_HOME", str(tmp_path))
    append({"id": "a", "at": "2999-01-01T00:00:00+00:00", "who": "anna@boxa", "act": "cancel", "result": "done"})
    with (tmp_path / "audit.jsonl").open("a") as file:
        file.write('{"torn\n')
    done = CliRunner().invoke(app, ["audit"])
    assert done.exit_code == 0
    assert "anna@boxa" in done.stdout
    assert "only what was done from this home is known: no server" in done.stderr
    assert "1 line of the audit cannot be read" in done.stderr


def test_the_result_goes_before_what_was_asked_for_whatever_comes_first():
    line = {"id": "a", "at": "2026-01-01T00:00:00+00:00", "act": "cancel"}
    asked, done = {**line, "result": "asked"}, {**line, "result": "done"}
    for lines in ([asked, done], [done, asked], [asked]):
        (row,) = known_acts(lines, [])
        assert row.result == ("done" if done in lines else "asked")


@pytest.mark.parametrize("line", [{}, {"id": 3, "at": None}, {"id": "a", "at": "yesterday", "pid": "x", "force": 1}])
def test_lines_that_say_nonsense_harm_nothing(line):
    assert [row.id for row in known_acts([line], [])] in ([], [str(line.get("id"))])
