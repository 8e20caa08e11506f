"""What waits is known at every turn, also between two readings of the whole list."""

import time

from gpu_pools.placement.waiting import WaitList
from gpu_pools.prefect_client import Run


class Server:
    """Has runs, and takes a while to list them all."""

    def __init__(self, *runs: Run) -> None:
        self.runs = {run.id: run for run in runs}
        self.whole = 0
        self.asked: list[str] = []

    def due_or_cancelling(self):
        self.asked.append("both")
        return [run for run in self.runs.values() if run.state in {"SCHEDULED", "CANCELLING"}]

    def in_state(self, state):
        self.asked.append(state)
        return [run for run in self.runs.values() if run.state == state]

    def due(self, after=None):
        self.asked.append("due")
        if after is None:
            self.whole += 1
            time.sleep(0.05)
        return [run for run in self.runs.values() if run.state == "SCHEDULED" and run.since >= (after or 0.0)]

    def by_id(self, ids):
        return {run_id: self.runs[run_id] for run_id in ids if run_id in self.runs}


def run(name, state="SCHEDULED", since=0.0):
    return Run(name, name, "cuda:0.training", None, state, "", "", since, {}, "")


def test_what_was_put_back_is_seen_at_the_next_turn_however_long_ago_it_was_due():
    server = Server(run("waits"), run("dies", "RUNNING"))
    found = WaitList(server, lambda: 1000.0)
    assert [one.id for one in found.read()] == ["waits"]
    server.runs["dies"] = run("dies", since=-5.0)
    found.put_back("dies")
    assert [one.id for one in found.read()] == ["dies", "waits"]
    found.drop("dies")
    assert [one.id for one in found.read()] == ["waits"]
    assert server.whole == 1


def test_what_was_put_back_and_cancelled_since_does_not_wait():
    server = Server(run("dies", "CANCELLED"))
    found = WaitList(server, lambda: 1000.0)
    found.read()
    found.put_back("dies")
    found.put_back("deleted")
    assert found.read() == []


def test_one_request_tells_what_waits_and_what_is_cancelled():
    server, now = Server(run("waits"), run("ends", "CANCELLING")), [1000.0]
    found = WaitList(server, lambda: now[0])
    for _ in range(3):
        assert [one.id for one in found.cancelling()] == ["ends"]
        assert [one.id for one in found.read()] == ["waits"]
        now[0] += 0.5
    assert server.asked == ["both"] * 3


def test_of_a_long_list_the_cancelled_are_asked_for_once_a_second():
    server, now = Server(run("waits"), run("ends", "CANCELLING")), [1000.0]
    found = WaitList(server, lambda: now[0])
    found.read()  # takes 50 ms, so the whole list is not read again for half a second
    assert [one.id for one in found.cancelling()] == ["ends"]
    assert found.cancelling() == []  # not read anew
    assert server.asked == ["due", "due", "CANCELLING", "due"]


def test_a_large_yard_is_asked_more_rarely_and_what_was_put_back_is_still_seen_at_once():
    server, now = Server(run("waits"), run("dies", "RUNNING")), [1000.0]
    found = WaitList(server, lambda: now[0], lambda: 1.75)
    for _ in range(8):
        found.cancelling()
        found.read()
        now[0] += 0.5
    assert server.asked == ["both"] * 2
    server.runs["dies"] = run("dies")
    found.put_back("dies")
    found.cancelling()
    assert [one.id for one in found.read()] == ["waits", "dies"]
