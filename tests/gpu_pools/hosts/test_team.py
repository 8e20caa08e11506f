"""On which hosts a run can start that needs several."""

from dataclasses import replace

import pytest

from gpu_pools.hosts import team
from gpu_pools.hosts.team import able_hosts
from gpu_pools.placement.place import Refuse, Wait
from gpu_pools.placement.queues import Queue
from tests.gpu_pools.placement.test_gathering import run

GPUS = {"boxa": (4, True), "boxb": (2, True), "boxc": (4, False), "old": (0, True)}


def against_team(one, gpus):
    return team.against_team(one, gpus, share_a_disk=True)


def wide(n_hosts, n_devices=1, **changes):
    return replace(run("w", n_devices), n_hosts=n_hosts, **changes)


def test_hosts_with_enough_gpus_that_are_online_are_enough():
    assert against_team(wide(2, 2), GPUS) is None
    assert able_hosts(wide(2, 4), GPUS) == ["boxa", "boxc"]


def test_a_run_waits_for_a_host_that_is_not_online():
    text = "needs 2 hosts with 4 GPUs each, online: boxa; waits for a worker on boxc"
    assert against_team(wide(2, 4), GPUS) == Wait("w", text)


def test_more_hosts_than_there_are_are_refused():
    text = "found GPUs: 4 on boxa, 2 on boxb, 4 on boxc; need 3 hosts with 4 GPUs each for n_hosts 3"
    assert against_team(wide(3, 4), GPUS) == Refuse("w", text)


@pytest.mark.parametrize("queue", [Queue("cuda:1", "training"), Queue("cuda", "training", "boxa")])
def test_one_that_names_a_device_or_a_host_is_refused(queue):
    text = f"found device {queue.label} for n_hosts 2, need cuda"
    assert against_team(wide(2, queue=queue), GPUS) == Refuse("w", text)


def test_hosts_that_share_no_disk_are_none():
    text = "found hosts that share no disk, need a home that all share for n_hosts 2"
    assert team.against_team(wide(2), GPUS, share_a_disk=False) == Refuse("w", text)
