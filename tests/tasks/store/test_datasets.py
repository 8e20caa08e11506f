import time

import pytest

from tasks.base.errors import ConfigError, StorageError
from tasks.store import packing
from tasks.store.datasets import DataSets
from tasks.store.objects import Objects

pytestmark = pytest.mark.yard


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("TRAINYARD_HOME", str(tmp_path / "home"))
    data = tmp_path / "data"
    for name in ("files/a.jpg", "lock/b.part", "c.tmp"):
        (data / name).parent.mkdir(parents=True, exist_ok=True)
        (data / name).write_bytes(name.encode())
    (data / "link").symlink_to("/etc/passwd")
    return data


def test_a_data_set_is_found_by_its_name_and_by_what_it_was(objects, folder, tmp_path):
    sets = DataSets(objects)
    first = sets.put(folder, "birds", "anna")
    assert (first.n_files, first.n_bytes, first.owner) == (3, 27, "anna")
    (folder / "more").write_bytes(b"more")
    time.sleep(0.002)
    second = sets.put(folder, "birds", "ben")
    assert sets.find("data:birds") == sets.find(second.address)
    assert sets.find("data:birds").digest == second.digest
    assert sets.find(first.address).digest == first.digest
    assert [found.address for found in sets.all() if found.name == "birds"] == [second.address]
    here = sets.bring(second.digest)
    assert {path.name: path.read_bytes() for path in here.rglob("*") if path.is_file()} == {
        "a.jpg": b"files/a.jpg",
        "b.part": b"lock/b.part",
        "c.tmp": b"c.tmp",
        "more": b"more",
    }
    sets.copy(first.digest, tmp_path / "copy")
    assert not (tmp_path / "copy" / "more").exists()
    with pytest.raises(ConfigError, match="need a place where nothing is yet"):
        sets.copy(first.digest, tmp_path / "copy")


def test_the_same_content_is_one_data_set_and_is_sent_once(objects, folder, monkeypatch):
    first = DataSets(objects).put(folder, "same", "anna")
    sent: list[str] = []
    put = Objects.put
    monkeypatch.setattr(Objects, "put", lambda self, at, data: (sent.append(at), put(self, at, data)))
    assert DataSets(objects).put(folder, "same2", "anna").digest == first.digest
    assert [at.partition("/")[0] for at in sent] == ["data-names"]


def test_a_data_set_is_brought_once(objects, folder, monkeypatch):
    made = DataSets(objects).put(folder, "once", "anna")
    here = DataSets(objects).bring(made.digest)
    monkeypatch.setattr(Objects, "get", lambda self, at: pytest.fail("asked again"))
    assert DataSets(objects).bring(made.digest) == here


def test_names_that_are_none_are_refused_in_a_sentence(objects, folder, tmp_path):
    sets = DataSets(objects)
    with pytest.raises(ConfigError, match="found the name '../x'"):
        sets.put(folder, "../x", "anna")
    with pytest.raises(ConfigError, match="found no folder"):
        sets.put(tmp_path / "nothing", "x", "anna")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="found no file below"):
        sets.put(tmp_path / "empty", "x", "anna")
    with pytest.raises(ConfigError, match="found no data set 'nobody', have: .*`yard data put` adds one"):
        sets.find("data:nobody")
    made = sets.put(folder, "known", "anna")
    with pytest.raises(ConfigError, match=f"stands for {made.address} now"):
        sets.find("data:known@00000000")


def test_a_data_set_whose_objects_are_gone_says_so_and_leaves_nothing_that_looks_whole(objects, folder):
    made = DataSets(objects).put(folder, "lost", "anna")
    content = b"".join(name.encode() for name in ("c.tmp", "files/a.jpg", "lock/b.part"))
    objects.remove(packing.object_name(packing.hashlib.sha256(content).hexdigest()))
    with pytest.raises(StorageError, match="found no trainyard/objects/.*: send it again"):
        DataSets(objects).bring(made.digest)
    assert not list((folder.parent / "home" / "datasets").glob(made.digest))
    DataSets(objects).put(folder, "lost2", "anna")
