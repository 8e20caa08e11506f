import os
import shutil
from pathlib import Path

import pytest

from tasks.base.errors import StorageError, TakenOverError, TransferError
from tasks.store import packing
from tasks.store.folder import STATE, SharedFolder, frozen
from tasks.store.objects import Objects

pytestmark = pytest.mark.yard


def content(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file() and STATE not in path.parts)
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def write(folder: Path, **files: bytes) -> None:
    for name, data in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def test_what_one_host_sends_the_other_has_byte_for_byte(objects, name, hosts):
    a, b = hosts
    write(a, split__train__a=b"1", split__train__b=b"", training__large=os.urandom(40 * 2**20))
    (a / "tool").write_bytes(b"#!/bin/sh\n")
    (a / "tool").chmod(0o755)
    (a / "lock").write_text("1234")
    (a / "split" / "half.tmp").write_text("half")
    os.link(a / "training" / "large", a / "training" / "twin")
    assert SharedFolder(a, name, objects).send("one") == 5
    told: list[tuple[int, int]] = []
    assert SharedFolder(b, name, objects).bring(lambda *far: told.append(far)) == 5
    sent = content(a)
    del sent["lock"], sent["split/half.tmp"]
    assert content(b) == sent
    assert os.access(b / "tool", os.X_OK)
    assert (b / "training" / "twin").stat().st_ino == (b / "training" / "large").stat().st_ino
    assert told[0][0] == 0
    assert told[-1][0] == told[-1][1] == 40 * 2**20 + 1 + 10


def test_only_what_changed_is_moved_and_what_was_removed_goes(objects, name, hosts, monkeypatch):
    a, b = hosts
    write(a, **{f"images__{i}": bytes([i]) * 100 for i in range(50)}, checkpoint=b"epoch 1")
    here, there = SharedFolder(a, name, objects), SharedFolder(b, name, objects)
    here.send("one")
    there.bring()
    sent: list[str] = []
    put = Objects.put
    monkeypatch.setattr(Objects, "put", lambda self, at, data: (sent.append(at), put(self, at, data)))
    assert here.send("one") == there.bring() == 0
    assert not sent
    write(b, checkpoint=b"epoch 2", report=b"good", images__copy=bytes([7]) * 100)
    (b / "images" / "3").unlink()
    assert there.send("two") == 4
    assert sum(at.startswith("objects/") for at in sent) == 1
    assert here.bring() == 4
    assert content(a) == content(b)
    assert (a / "images" / "copy").read_bytes() == bytes([7]) * 100
    assert not (a / "images" / "3").exists()
    assert here.bring() == 0


def test_a_chain_of_hosts_ends_with_the_latest_word_of_each(objects, name, hosts, tmp_path):
    a, b = hosts
    c = tmp_path / "boxc"
    write(a, split=b"s", training=b"1")
    SharedFolder(a, name, objects).send("preparation")
    for folder, writer, word in ((b, "training", b"2"), (a, "training", b"3"), (b, "report", b"4")):
        SharedFolder(folder, name, objects).bring()
        write(folder, training=word)
        SharedFolder(folder, name, objects).send(writer)
    SharedFolder(c, name, objects).bring()
    assert content(c) == {"split": b"s", "training": b"4"}
    manifests = [at for at in objects.sizes(name) if at.endswith(".json.gz")]
    assert len(manifests) == 3  # the latest manifest of each writer


def test_what_was_changed_here_stays_unless_somebody_else_changed_it_later(objects, name, hosts):
    a, b = hosts
    write(a, one=b"1", two=b"2")
    SharedFolder(a, name, objects).send("first")
    SharedFolder(b, name, objects).bring()
    write(a, one=b"not sent")
    write(b, two=b"sent")
    SharedFolder(b, name, objects).send("second")
    SharedFolder(a, name, objects).bring()
    assert content(a) == {"one": b"not sent", "two": b"sent"}
    SharedFolder(a, name, objects).send("first")
    SharedFolder(b, name, objects).bring()
    assert content(b) == content(a)


def test_a_bring_that_was_cut_off_goes_on_where_it_was(objects, name, hosts, monkeypatch):
    a, b = hosts
    write(a, large=os.urandom(5 * packing.OBJECT_BYTES), small=b"s")
    SharedFolder(a, name, objects).send("one")
    asked: list[str] = []
    get = Objects.get

    def failing(self: Objects, at: str) -> bytes | None:
        asked.append(at)
        if sum(name.startswith("objects/") for name in asked) > 3:
            raise TransferError("cut off")
        return get(self, at)

    monkeypatch.setattr(Objects, "get", failing)
    with pytest.raises(TransferError, match="cut off"):
        SharedFolder(b, name, objects).bring()
    assert "large" not in content(b)  # nothing that is half there has its name
    before = len(asked)
    monkeypatch.setattr(Objects, "get", lambda self, at: (asked.append(at), get(self, at))[1])
    SharedFolder(b, name, objects).bring()
    assert content(b) == content(a)
    assert sum(name.startswith("objects/") for name in asked[before:]) <= 4


def test_damage_is_found_and_nothing_damaged_is_taken(objects, name, hosts):
    a, b = hosts
    write(a, file=b"good content")
    SharedFolder(a, name, objects).send("one")
    digest = packing.hashlib.sha256(b"good content").hexdigest()
    objects.below(name).put(packing.object_name(digest), b"evil content")
    with pytest.raises(StorageError, match="is damaged"):
        SharedFolder(b, name, objects).bring()
    assert content(b) == {}
    objects.below(name).put(packing.object_name(digest), b"good content")
    assert SharedFolder(b, name, objects).bring() == 1


def test_an_object_whose_writing_was_cut_off_is_sent_again(objects, name, hosts):
    a, b = hosts
    data = os.urandom(1000)
    objects.below(name).put(packing.object_name(packing.hashlib.sha256(data).hexdigest()), data[:500])
    write(a, file=data)
    SharedFolder(a, name, objects).send("one")
    SharedFolder(b, name, objects).bring()
    assert content(b) == {"file": data}


def test_a_link_leads_nobody_out_of_the_folder(objects, name, hosts, tmp_path):
    a, b = hosts
    write(a, out__file=b"1")
    SharedFolder(a, name, objects).send("one")
    (tmp_path / "elsewhere").mkdir()
    (b / "out").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StorageError, match="a link on the way"):
        SharedFolder(b, name, objects).bring()
    assert not any((tmp_path / "elsewhere").iterdir())


def test_a_picture_of_a_training_is_sent_while_it_goes_on(objects, name, hosts):
    a, b = hosts
    write(a, split__image=b"i", training__checkpoint=b"epoch 1", training__best=b"epoch 1")
    folder = SharedFolder(a, name, objects)
    folder.send("one")
    frozen(a, "training", a / STATE / "picture")
    for file in ("checkpoint", "best"):  # replaced whole, as all that writes them does
        (a / "training" / f"{file}.new").write_bytes(b"epoch 2")
        (a / "training" / f"{file}.new").replace(a / "training" / file)
    (a / "training" / "more").write_bytes(b"later")
    assert folder.send("one", a / STATE / "picture") == 0  # as it was sent before
    shutil.rmtree(a / STATE / "picture")
    frozen(a, "training", a / STATE / "picture")
    write(a, training__checkpoint2=b"x")
    assert folder.send("one", a / STATE / "picture") == 3
    SharedFolder(b, name, objects).bring()
    assert content(b / "training") == {"checkpoint": b"epoch 2", "best": b"epoch 2", "more": b"later"}


def test_a_server_that_is_away_is_said_in_a_sentence(tmp_path, name):
    with Objects("http://127.0.0.1:9", patience_s=0.5) as away, pytest.raises(TransferError, match="does not answer"):
        SharedFolder(tmp_path, name, away).bring()


def test_who_comes_back_knows_that_its_training_goes_on_elsewhere(objects, name, hosts):
    a, b = hosts
    lost, taker, pipeline = (SharedFolder(folder, name, objects) for folder in (a, b, b))
    write(a, training__checkpoint=b"epoch 1")
    assert not lost.goes_on_elsewhere("training")  # nobody was told of it yet
    lost.send("run", claim=True)
    assert not lost.goes_on_elsewhere("training")
    taker.bring()
    assert not taker.goes_on_elsewhere("training")
    taker.send("run", claim=True)
    assert lost.goes_on_elsewhere("training")
    assert not lost.goes_on_elsewhere("split")
    assert not taker.goes_on_elsewhere("training")
    write(b, report__table=b"x")
    pipeline.send("another run")
    lost.bring()
    assert not lost.goes_on_elsewhere("training")  # it has what the other host knows


def test_a_host_that_was_cut_off_sends_nothing_once_its_run_goes_on_elsewhere(objects, name, hosts, tmp_path):
    a, b = hosts
    cut_off, taker = SharedFolder(a, name, objects), SharedFolder(b, name, objects)
    write(a, checkpoint=b"epoch 1")
    cut_off.send("run", claim=True)
    write(a, checkpoint=b"epoch 9")
    taker.bring()
    assert taker.send("run", claim=True) == 0
    with pytest.raises(TakenOverError, match="run run goes on"):
        cut_off.send("run")
    with pytest.raises(TakenOverError, match="run run goes on"):
        cut_off.check("run")
    taker.check("run")
    write(b, checkpoint=b"epoch 2")
    taker.send("run")
    cut_off.bring()
    assert content(a) == {"checkpoint": b"epoch 2"}


def test_the_store_keeps_the_latest_checkpoint_alone_and_nothing_of_a_removed_run(objects, name, hosts):
    a, b = hosts
    write(a, split__image=b"image" * 1000)
    shared = SharedFolder(a, name, objects)
    shared.send("prepare")
    for epoch in range(4):
        write(a, training__checkpoint=bytes([epoch]) * 2**20)
        shared.send("train")
    assert sum(n_bytes(objects.below(name))) == 5000 + 2**20
    SharedFolder(b, name, objects).bring()
    assert content(b) == content(a)
    shared.remove()
    assert not any(name.endswith(".gz") for name in objects.sizes(name))
    assert not n_bytes(objects.below(name))
    assert SharedFolder(b, name, objects).known() == {}


def n_bytes(objects: Objects) -> list[int]:
    """Return the sizes of all objects of a folder."""
    folders = objects.sizes("objects")
    return [size for folder in folders for size in objects.sizes(f"objects/{folder}").values()]
