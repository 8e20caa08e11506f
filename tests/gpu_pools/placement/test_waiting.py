"""What waits is known at every turn, also between two readings of the whole list."""

import time

from gpu_pools.placement.waiting import WaitList
from gpu_pools.prefect_client import Run


class Server:
    """Has runs, and takes a while to list them all."""

    def __init__(self, *runs: Run) -> None:
        self.runs = {run.id: run for run in runs}
        self.whole = 0

    def due(self, after=None):
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
