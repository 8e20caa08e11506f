import pytest

from gpu_pools.slurm.job_states import Job, parse_jobs, parse_nodes, sentence

LISTED = """\
7|RUNNING|None|node[1-2]|2026-11-29T16:01:18|trainyard 1234 ab
9|PENDING|Resources||2026-11-29T21:06:00|trainyard 5678 cd
10|PENDING|None||N/A|(null)
slurm_load_jobs error: Unable to contact slurm controller
11_[1-4]|PENDING|Priority||N/A|somebody's array
12|CANCELLED|None||2026-11-29T15:00:00|a|comment|with bars
"""


def job(state="PENDING", reason="", nodes=""):
    return Job("9", state, reason, nodes, None, "trainyard 1 a")


def test_jobs_are_read_as_squeue_prints_them():
    jobs = {found.id: found for found in parse_jobs(LISTED.splitlines())}
    assert list(jobs) == ["7", "9", "10", "12"]
    assert (jobs["7"].nodes, jobs["7"].reason, jobs["7"].waits, jobs["7"].over) == ("node[1-2]", "", False, False)
    assert jobs["9"].waits
    assert jobs["9"].start is not None
    assert jobs["10"].start is None
    assert jobs["12"].over
    assert jobs["12"].comment == "a|comment|with bars"


def test_slurms_reason_becomes_a_sentence():
    waiting = parse_jobs(LISTED.splitlines())[1]
    assert sentence(waiting) == (
        "Slurm job 9 waits until enough GPUs, cores or memory are free (Resources), expected at 2026-11-29 21:06"
    )


@pytest.mark.parametrize(
    ("reason", "text"),
    [
        ("Priority", "Slurm job 9 waits for jobs that go before it (Priority)"),
        ("QOSMaxGRESPerUser", "Slurm job 9 waits at a limit of its user, account or QOS (QOSMaxGRESPerUser)"),
        ("AssocGrpGRES", "Slurm job 9 waits at a limit of its user, account or QOS (AssocGrpGRES)"),
        ("ReqNodeNotAvail, UnavailableNodes:n1", "ReqNodeNotAvail, UnavailableNodes:n1"),
        ("PartitionConfig", "Slurm job 9 asks for more than a node of its partition has (PartitionConfig)"),
        ("SomethingNew", "Slurm job 9 waits (SomethingNew)"),
        ("", "Slurm job 9 was handed over; Slurm has not looked at it yet"),
    ],
)
def test_each_reason_has_one(reason, text):
    assert text in sentence(job(reason=reason))


def test_a_job_that_has_a_node_starts():
    assert sentence(job("CONFIGURING", nodes="node1")) == "Slurm job 9 starts on node1"
    assert not job("COMPLETING").over
    assert not job("SUSPENDED").over
    assert job("REQUEUED").waits


def test_nodes_are_read_as_sinfo_prints_them():
    nodes = parse_nodes(
        [
            "n1.lab|gpu:a100:4(S:0-1)|idle",
            "n1.lab|gpu:a100:4(S:0-1)|idle",  # in a second partition
            "n2|gpu:2,shard:8|drained*",
            "n3|(null)|mixed",
            "n4|gpu:a100:2,gpu:t4:1|allocated",
        ]
    )
    assert [(node.name, node.n_gpus, node.up) for node in nodes] == [
        *(("n1", 4, True), ("n2", 2, False), ("n3", 0, True), ("n4", 3, True))
    ]
