"""A served model from the queue of a simulated GPU: it gives way, and frees its slot however it is killed."""

import json
import os
import signal
import time

import httpx
import psutil
import pytest

from deployments.services.service import free_port
from tests.chaos.yard import Yard
from tests.tasks.vision_language.yard_serve import ENGINE, ends, make_model

pytestmark = [pytest.mark.yard, pytest.mark.timeout(600)]

QUEUE = "cuda:0.inference"
LOOKS_EVERY_S = 10


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    made = Yard(tmp_path_factory.mktemp("yard"), free_port())
    made.model = make_model(tmp_path_factory.mktemp("models") / "tiny")
    try:
        made.start_server()
        made.start_worker("one", TRAINYARD_ENGINES=ENGINE)
        made.until(lambda: made.serves("one"), 240, "the worker serves")
        made.deploy_runs()
        made.deploy("serve", "flows.serving.serve", "cuda.inference")
        made.set_queue(QUEUE, concurrency_limit=1)
        yield made
    finally:
        made.stop()


def serve(made, **params):
    """Submit a server; return its run and, once it answers, its address."""
    serving = {"engine": ENGINE, "idle": None, "device": "cuda:0", **params}
    run = made.submit("serve", QUEUE, {"model": str(made.model), "serve": serving}, priority=3)
    return run, answering(made, run)


def answering(made, run, before=None):
    """Return where a run answers; at another address than before."""
    file = made.home / "runs" / run / "serving" / "address.json"

    def address():
        found = json.loads(file.read_text()) if file.exists() else None
        return found if found and found["url"] != before else None

    made.until(address, 120, "the model answers")
    return address()


def family(pid):
    return [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]


def question(text):
    return {"messages": [{"role": "user", "content": text}], "stream": True}


def test_an_idle_server_ends_for_a_run_of_higher_priority_and_says_for_whom(made):
    run, address = serve(made, give_way="1s")
    less = made.hold(QUEUE, 0.1, priority=4)
    made.until(lambda: "is running" in (made.state(less)["message"] or ""), 60, "it waits for the server")
    with httpx.stream("POST", f"{address['url']}/v1/chat/completions", json=question("slow"), timeout=30) as answer:
        lines = answer.iter_lines()  # held: what is dropped is closed
        next(lines)
        more = made.hold(QUEUE, 0.1, priority=2, owner="anna@boxa")
        made.until(lambda: made.state(more)["message"], 60, "it waits")
        time.sleep(LOOKS_EVERY_S + 2)
        assert made.state(run)["type"] == "RUNNING"  # somebody is asking, and who waits without a turn is no reason
    made.until(made.is_(run, "COMPLETED"), 60, "the server ends")
    said = made.state(run)["message"]
    assert said.startswith("ended for ")
    assert said.endswith(" of anna@boxa, of higher priority: nobody has asked anything for 1 s")
    made.until(lambda: all(made.state(one)["type"] == "COMPLETED" for one in (less, more)), 60, "the others run")
    assert made.of(more)[0]["begin"] < made.of(less)[0]["begin"]


def test_who_is_not_of_higher_priority_waits(made):
    run, _ = serve(made, give_way="1s")
    same = made.hold(QUEUE, 0.1, priority=3)
    training = made.hold("cuda:0.training", 0.1, priority=1)  # has a slot of its own
    made.until(made.is_(training, "COMPLETED"), 60, "the training runs beside it")
    time.sleep(LOOKS_EVERY_S + 2)
    assert (made.state(run)["type"], made.state(same)["type"]) == ("RUNNING", "SCHEDULED")
    made.cancel(run)
    made.until(made.is_(run, "CANCELLED"), 30, "it is cancelled")
    made.until(made.is_(same, "COMPLETED"), 60, "the slot is free")


@pytest.mark.parametrize("what", ["engine", "tether"])
def test_a_killed_engine_ends_its_run_and_the_slot_is_free_at_once(made, what):
    run, address = serve(made)
    waits = made.hold(QUEUE, 0.1)
    processes = family(address["pid"])
    os.kill(processes[-1] if what == "engine" else processes[0], signal.SIGKILL)
    assert ends(processes)
    made.until(made.is_(run, "FAILED"), 30, "the run fails")
    assert "the engine ended with code" in made.state(run)["message"]
    assert made.until(made.is_(waits, "COMPLETED"), 30, "the slot is free") < 15
    assert made.marked(run) == []


def test_a_killed_run_takes_its_engine_along_and_serves_again(made):
    run, address = serve(made)
    processes = family(address["pid"])
    (pid,) = {psutil.Process(address["pid"]).ppid()}
    os.kill(pid, signal.SIGKILL)
    assert ends(processes)
    again = answering(made, run, before=address["url"])
    assert httpx.get(f"{again['url']}/health").status_code == 200
    made.cancel(run)
    made.until(made.is_(run, "CANCELLED"), 30, "it is cancelled")
    assert ends([again["pid"]])
    assert made.marked(run) == []
    folder = made.home / "runs" / run
    made.until(
        lambda: not (folder / "tmp").exists() and not (folder / "serving" / "address.json").exists(), 30, "swept"
    )


def test_an_engine_that_nobody_allowed_is_refused(made):
    engine = {"engine": "/bin/sh -c 'touch {port}'", "device": "cuda:0"}
    run = made.submit("serve", QUEUE, {"model": str(made.model), "serve": engine})
    made.until(made.is_(run, "FAILED"), 60, "it is refused")
    assert "TRAINYARD_ENGINES adds more" in made.state(run)["message"]
