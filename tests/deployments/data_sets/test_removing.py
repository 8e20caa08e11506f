"""A data set goes only where no run that waits or runs needs it."""

import pytest

from deployments.data_sets.removing import remove
from deployments.sharing.permissions import NotAllowedError
from gpu_pools.names import asker
from tasks.base.errors import ConfigError
from tasks.store.datasets import DataSets
from tasks.store.objects import Objects


@pytest.fixture
def objects(tracking):
    with Objects(tracking, patience_s=5) as found:
        yield found


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "birds").mkdir()
    (tmp_path / "birds" / "a.jpg").write_bytes(str(tmp_path).encode())
    return tmp_path / "birds"


def test_a_run_that_waits_or_runs_keeps_what_it_names(yard, objects, folder):
    made = DataSets(objects).put(folder, "birds", asker())
    run = yard.create("splatting", name="room", parameters={"data": made.address})["id"]
    for state in ("SCHEDULED", "RUNNING", "PAUSED"):
        yard.state(run, state)
        with pytest.raises(ConfigError, match=rf"found runs that need data:birds: {run[:8]} \(room, "):
            remove(yard.api, objects, "birds", force=False)
    yard.state(run, "CANCELLED")
    done = remove(yard.api, objects, "data:birds", force=False)
    assert (done.address, done.removed.n_bytes > 9, done.resumed) == ("data:birds", True, False)
    with pytest.raises(ConfigError, match="found no data set 'birds'"):
        remove(yard.api, objects, "birds", force=False)


def test_a_run_of_another_version_keeps_that_one_alone(yard, objects, folder):
    sets = DataSets(objects)
    first = sets.put(folder, "crows", asker())
    (folder / "a.jpg").write_bytes(b"other")
    second = sets.put(folder, "crows", asker())
    run = yard.create("splatting", parameters={"data": first.address})["id"]
    with pytest.raises(ConfigError, match="found runs that need data:crows"):
        remove(yard.api, objects, "crows", force=False)
    assert remove(yard.api, objects, second.address, force=False).removed.n_versions == 1
    assert sets.find("data:crows").digest == first.digest
    yard.state(run, "COMPLETED")


def test_somebody_elses_is_kept_from_a_mistake(yard, objects, folder):
    DataSets(objects).put(folder, "owls", "zoe@boxz")
    with pytest.raises(NotAllowedError, match="data set data:owls belongs to zoe@boxz"):
        remove(yard.api, objects, "owls", force=False)
    assert remove(yard.api, objects, "owls", force=True).removed.n_bytes > 9
