"""The runs by which other hosts take part in a run: asked for by one start of it, and given up with that."""

import pytest

from gpu_pools.hosts.offers import LABEL, SHARE_LABEL, Offer
from gpu_pools.hosts.params import ShareParams
from gpu_pools.hosts.shares import call_hosts, dismiss, dismiss_others, note_share, put_back, run_shared_by
from gpu_pools.process.run_process import MARK
from gpu_pools.process.run_setup import MEETING, ON
from gpu_pools.slots.ledger import Entry
from tasks.base.errors import ConfigError

FLOW = "flows.joining.join_training"


@pytest.fixture
def run_id(prefect):
    prefect.add_deployment(FLOW)
    labels = {f"{LABEL}boxb": Offer(0, True, "x").as_label()}
    return prefect.add_run("SCHEDULED", "cuda.training", name="wide", labels=labels)


def call(client, run_id, *hosts):
    run = client.by_id([run_id])[run_id]
    entry = Entry(*(run_id, "wide", "anna@boxa", run.queue, "cuda:0", "GPU-0", 0, "claimed", 1, 0.0), priority=3)
    return call_hosts(client, run, entry, 2, hosts)


def shares(client, run_id):
    return {share.name: share for share in client.children(run_id)}


def states(prefect, run_id):
    return [run["state"]["type"] for run in prefect.runs.values() if run["parent_flow_run_id"] == run_id]


def test_each_host_is_asked_for_its_share_in_a_queue_of_its_own(client, prefect, run_id):
    meeting = call(client, run_id, "boxb", "boxc")
    number, _, names = meeting.partition(" ")
    assert names == "boxb,boxc"
    asked = shares(client, run_id)
    assert {name: share.queue for name, share in asked.items()} == {
        "wide on boxb": "boxb.cuda.training",
        "wide on boxc": "boxc.cuda.training",
    }
    share = asked["wide on boxb"]
    assert ShareParams(**share.parameters["share"]) == ShareParams(run=run_id, meeting=number, n_devices=2)
    assert (share.owner, share.job_variables["priority"]) == ("anna@boxa", 3)
    assert run_shared_by(share) == run_id
    assert run_shared_by(client.by_id([run_id])[run_id]) == ""
    assert prefect.runs[run_id]["labels"][f"{LABEL}boxb"] == ""  # what was offered is taken


def test_a_start_that_came_about_ends_the_shares_of_those_before(client, prefect, run_id):
    call(client, run_id, "boxb")
    dismiss_others(client, run_id, call(client, run_id, "boxc"))
    assert states(prefect, run_id) == ["CANCELLING", "SCHEDULED"]


def test_a_start_that_did_not_ends_its_own_alone(client, prefect, run_id):
    call(client, run_id, "boxb")
    dismiss(client, run_id, call(client, run_id, "boxc"))
    assert states(prefect, run_id) == ["SCHEDULED", "CANCELLING"]


def test_a_run_whose_hosts_do_not_come_waits_again_without_its_shares(client, prefect, run_id, monkeypatch):
    monkeypatch.setenv(MARK, run_id)
    monkeypatch.setenv(MEETING, call(client, run_id, "boxb"))
    prefect.set_state(run_id, "RUNNING")
    put_back("boxb did not come")
    assert prefect.state(run_id) == ("SCHEDULED", "Waiting", "boxb did not come")
    assert states(prefect, run_id) == ["CANCELLING"]


def test_one_that_was_cancelled_meanwhile_stays_so(client, prefect, run_id, monkeypatch):
    monkeypatch.setenv(MARK, run_id)
    prefect.set_state(run_id, "CANCELLED")
    put_back("boxb did not come")
    assert prefect.state(run_id)[0] == "CANCELLED"


def test_a_run_has_the_devices_of_its_shares_on_it(client, prefect, run_id, monkeypatch):
    monkeypatch.setenv(ON, "cuda:0,cuda:2")
    monkeypatch.setattr("gpu_pools.hosts.shares.host_name", lambda: "boxb")
    note_share(ShareParams(run=run_id, meeting="0" * 32))
    assert prefect.runs[run_id]["labels"][f"{SHARE_LABEL}boxb"] == "cuda:0,cuda:2"


def test_a_server_without_the_deployment_is_told_of(client, prefect):
    run_id = prefect.add_run("SCHEDULED", "cuda.training", name="wide")
    with pytest.raises(ConfigError, match="found no deployment join_training/stage-join-training"):
        call(client, run_id, "boxb")


@pytest.mark.parametrize("fields", [{"run": "../../etc"}, {"meeting": "../x"}, {"n_devices": 0}])
def test_a_share_names_a_run_and_a_meeting_and_nothing_else(fields):
    with pytest.raises(ValueError, match=next(iter(fields))):
        ShareParams(**{"run": "0" * 8 + "-0000" * 3 + "-" + "0" * 12, "meeting": "0" * 32, **fields})
