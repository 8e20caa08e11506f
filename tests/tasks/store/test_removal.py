"""A removed data set takes with it what no other one has, whatever happens at the same moment."""

import multiprocessing
import os
import signal
import threading
import time

import pytest

from tasks.base.errors import ConfigError, StorageError, TransferError
from tasks.store import removal
from tasks.store.datasets import DataSets
from tasks.store.objects import Objects
from tasks.store.pointers import all_pointers, files_of

pytestmark = pytest.mark.yard
LARGE = 5 * 2**20  # an object of its own


@pytest.fixture(autouse=True)
def quick(monkeypatch, tmp_path):
    monkeypatch.setenv("TRAINYARD_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(removal, "_BEAT_S", 0.2)
    monkeypatch.setattr(removal, "_DEAD_S", 1.0)


@pytest.fixture
def store(objects, request):
    """A store that no other test has anything in."""
    return objects.below(f"tests/{request.node.name.replace('[', '-').rstrip(']')}-{time.time_ns()}")


def make(folder, **files):
    folder.mkdir()
    for name, seed in files.items():
        (folder / name).write_bytes(bytes([seed]) * LARGE)
    return folder


def remove(store, name, is_needed=lambda: None):
    sets = DataSets(store)
    return sets.remove(sets.pointers(f"data:{name}"), is_needed)


def objects_in(store):
    return {name for prefix in store.sizes("objects") for name in store.sizes(f"objects/{prefix}")}


def interrupt(*args):
    raise KeyboardInterrupt


def is_whole(store, name):
    sets = DataSets(store)
    files = files_of(store, sets.find(f"data:{name}").digest)
    return {span.name for file in files.values() for span in file.spans} <= objects_in(store)


def test_objects_of_other_data_sets_stay_and_the_rest_goes(store, tmp_path):
    sets = DataSets(store)
    sets.put(make(tmp_path / "a", one=1, two=2), "a", "anna")
    sets.put(make(tmp_path / "b", one=1, three=3), "b", "anna")
    removed = remove(store, "a")
    assert (removed.n_versions, removed.n_bytes, removed.n_kept) == (1, LARGE, LARGE)
    assert [found.name for found in sets.all()] == ["b"]
    assert is_whole(store, "b")
    assert len(objects_in(store)) == 2
    with pytest.raises(ConfigError, match="found no data set 'a', have: b"):
        sets.find("data:a")
    assert remove(store, "b").n_bytes == 2 * LARGE
    assert not objects_in(store)
    assert not store.sizes("data-removals")


def test_another_name_for_the_same_content_keeps_it(store, tmp_path):
    sets, folder = DataSets(store), make(tmp_path / "a", one=1)
    digest = sets.put(folder, "a", "anna").digest
    sets.put(folder, "b", "anna")
    assert remove(store, "a").n_bytes == 0
    assert sets.find("data:b").digest == digest
    assert is_whole(store, "b")


def test_one_version_goes_alone(store, tmp_path):
    sets, folder = DataSets(store), make(tmp_path / "a", one=1)
    first = sets.put(folder, "a", "anna")
    (folder / "one").write_bytes(b"9" * LARGE)
    time.sleep(0.002)
    second = sets.put(folder, "a", "anna")
    assert len(sets.all(versions=True)) == 2
    assert sets.remove(sets.pointers(first.address), lambda: None).n_bytes == LARGE
    assert sets.all(versions=True) == [second]
    assert is_whole(store, "a")


def test_names_come_back_where_a_run_begins_to_need_them(store, tmp_path):
    def refuse():
        raise ConfigError("needed")

    DataSets(store).put(make(tmp_path / "a", one=1), "a", "anna")
    with pytest.raises(ConfigError, match="needed"):
        remove(store, "a", refuse)
    assert is_whole(store, "a")
    assert not store.sizes("data-removals")


def test_a_put_of_the_same_files_at_the_same_moment_is_whole_afterwards(store, tmp_path, monkeypatch):
    folder = make(tmp_path / "a", one=1, two=2, three=3, four=4)
    DataSets(store).put(folder, "a", "anna")
    drop = removal.Removal._drop
    begun = threading.Event()

    def slowly(self, sizes, name):
        begun.set()
        time.sleep(0.3)
        return drop(self, sizes, name)

    monkeypatch.setattr(removal.Removal, "_drop", slowly)
    remover = threading.Thread(target=remove, args=(store, "a"))
    remover.start()
    assert begun.wait(20)
    DataSets(store).put(folder, "b", "ben")  # it finds objects that are about to go
    remover.join()
    assert is_whole(store, "b")
    assert [pointer.name for pointer in all_pointers(store)] == ["b", "b"]


def test_a_removal_that_comes_and_goes_while_a_put_sends_takes_nothing_from_it(store, tmp_path, monkeypatch):
    sets = DataSets(store)
    sets.put(make(tmp_path / "a", one=1, two=2), "a", "anna")
    call = DataSets._call

    def after_a_removal(self, name, owner, sent):
        monkeypatch.setattr(DataSets, "_call", call)
        assert remove(store, "a").n_bytes == 2 * LARGE
        return call(self, name, owner, sent)

    monkeypatch.setattr(DataSets, "_call", after_a_removal)
    found = sets.put(make(tmp_path / "b", one=1, three=3), "b", "ben")  # one is there already, and not sent
    assert is_whole(store, "b")
    assert sets.find("data:b") == found


def test_a_store_that_loses_what_it_takes_is_named(store, tmp_path, monkeypatch):
    put = Objects.put

    def lose(self, name, data):
        if not name.startswith("objects/"):
            put(self, name, data)

    monkeypatch.setattr(Objects, "put", lose)
    with pytest.raises(TransferError, match="found 1 of 1 objects of data:a@[0-9a-f]+ missing in MLflow's"):
        DataSets(store).put(make(tmp_path / "a", one=1), "a", "anna")


def test_what_a_put_that_was_cut_off_has_left_goes(store, tmp_path, monkeypatch):
    sets = DataSets(store)
    sets.put(make(tmp_path / "a", one=1, two=2), "a", "anna")
    with monkeypatch.context() as cut, pytest.raises(KeyboardInterrupt):
        cut.setattr(DataSets, "_call", interrupt)
        sets.put(make(tmp_path / "b", one=1, three=3), "b", "ben")
    assert len(objects_in(store)) == 3
    assert list(sets.clean().values()) == [LARGE]
    assert is_whole(store, "a")
    assert len(objects_in(store)) == 2
    assert not store.sizes("data-removals")
    assert not sets.clean()


def test_a_put_during_a_cleaning_is_whole_afterwards(store, tmp_path, monkeypatch):
    sets = DataSets(store)
    call = DataSets._call

    def after_a_cleaning(self, name, owner, sent):
        monkeypatch.setattr(DataSets, "_call", call)
        assert list(sets.clean().values()) == [LARGE, LARGE]
        return call(self, name, owner, sent)

    monkeypatch.setattr(DataSets, "_call", after_a_cleaning)
    sets.put(make(tmp_path / "a", one=1, two=2), "a", "anna")
    assert is_whole(store, "a")


def test_who_was_taken_for_dead_looks_again_before_it_removes_more(store, tmp_path, monkeypatch):
    folder = make(tmp_path / "a", one=1, two=2)
    DataSets(store).put(folder, "a", "anna")
    named = removal.Removal._named
    looked: list[int] = []

    def late(self, whole):
        found = named(self, whole)
        looked.append(1)
        if len(looked) == 1:  # it sleeps after it has looked; somebody takes it for dead, and puts the same files
            other = DataSets(store)
            other._call("b", "ben", other._send(folder, dict(files_of(store, digest)), {}, lambda done, total: None))
            self._last -= 100
        return found

    digest = DataSets(store).find("data:a").digest
    monkeypatch.setattr(removal.Removal, "_named", late)
    assert remove(store, "a").n_bytes == 0
    assert len(looked) == 2
    assert is_whole(store, "b")


def killed_at(store, name, n_done):
    """Remove in a process that is killed after so many acts on the store."""
    acts = [0]
    act = Objects.remove

    def counted(self, place):
        act(self, place)
        acts[0] += 1
        if acts[0] == n_done:
            os.kill(os.getpid(), signal.SIGKILL)

    Objects.remove = counted
    with Objects(store.url, patience_s=2) as own:
        own._root = store._root
        remove(own, name)


@pytest.mark.parametrize("n_done", [1, 2, 3, 4, 5, 6])
def test_a_removal_that_was_killed_is_finished_by_the_next_one(store, tmp_path, n_done):
    sets, folder = DataSets(store), make(tmp_path / "a", one=1, two=2)
    sets.put(make(tmp_path / "b", one=1), "b", "anna")
    sets.put(folder, "a", "anna")
    (folder / "two").write_bytes(b"9" * LARGE)
    time.sleep(0.002)
    sets.put(folder, "a", "anna")  # two names, two objects of their own, two manifests
    process = multiprocessing.get_context("fork").Process(target=killed_at, args=(store, "a", n_done))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert is_whole(store, "b")
    finished = sets.finish_removals()
    assert len(finished) == 1
    if [pointer for pointer in all_pointers(store) if pointer.name == "a"]:
        assert n_done == 1
        assert is_whole(store, "a")
        remove(store, "a")
    else:
        assert finished[0].names == {"a"}
    assert len(objects_in(store)) == 1
    assert len([name for prefix in store.sizes("datasets") for name in store.sizes(f"datasets/{prefix}")]) == 1
    assert is_whole(store, "b")
    assert not store.sizes("data-removals")


def test_a_damaged_data_set_keeps_others_from_being_removed_but_not_from_being_put(store, tmp_path):
    sets = DataSets(store)
    digest = sets.put(make(tmp_path / "bad", one=1), "bad", "anna").digest
    sets.put(make(tmp_path / "a", two=2), "a", "anna")
    store.remove(f"datasets/{digest[:3]}/{digest}.json.gz")
    with pytest.raises(StorageError, match="which a name there needs: put it there again"):
        remove(store, "a")
    assert sets.put(make(tmp_path / "c", two=2), "c", "ben").name == "c"
    assert is_whole(store, "c")
    remove(store, "bad")
    assert [found.removed.n_bytes for found in sets.finish_removals()] == [0]  # of a: c has it now
    assert is_whole(store, "c")


def test_what_is_missing_is_sent_again_by_a_put_of_the_same_name(store, tmp_path):
    sets, folder = DataSets(store), make(tmp_path / "a", one=1)
    sets.put(folder, "a", "anna")
    (name,) = objects_in(store)
    store.remove(f"objects/{name[:3]}/{name}")
    sets.put(folder, "a", "anna")
    assert is_whole(store, "a")


def test_an_outage_while_names_go_is_told_and_loses_nothing(store, tmp_path, monkeypatch):
    DataSets(store).put(make(tmp_path / "a", one=1), "a", "anna")
    monkeypatch.setattr(Objects, "remove", lambda self, place: (_ for _ in ()).throw(TransferError("away")))
    with pytest.raises(TransferError):
        remove(store, "a")
    monkeypatch.undo()
    assert is_whole(store, "a")
