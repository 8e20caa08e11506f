"""Checkpoints are sent beside the training, and the whole folder at the end."""

import threading
from pathlib import Path

import pytest

from tasks.base.errors import TakenOverError, TransferError
from tasks.store import sending
from tasks.store.sending import Sending


class Folder:
    """A shared folder that notes what is sent; `fault` is raised by the next sending."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.sent: list[dict[str, str] | None] = []
        self.fault: Exception | None = None
        self.may_end = threading.Event()
        self.may_end.set()

    def send(self, writer: str, source: Path | None = None, *, claim: bool = False) -> int:
        assert self.may_end.wait(10)
        if self.fault is not None:
            raise self.fault
        files = None if source is None else {str(p.relative_to(source)): p.read_text() for p in source.rglob("*.pt")}
        self.sent.append(files)
        return 1


@pytest.fixture
def made(tmp_path):
    (tmp_path / "training").mkdir()
    now = [1000.0]
    shared, taken = Folder(tmp_path), []
    found = Sending(shared, "run", taken.append, lambda: now[0])  # type: ignore[arg-type]
    return found, shared, now, taken


def save(made, epoch: int) -> None:
    """Write a checkpoint as a training does, and wait for what it sets off."""
    found, shared, _, _ = made
    new = shared.folder / "training" / "new"
    new.write_text(f"epoch {epoch}")
    new.replace(shared.folder / "training" / "checkpoint.pt")
    found.changed(shared.folder / "training")


def rest(made) -> None:
    found = made[0]
    if found._thread is not None:
        found._thread.join()


def test_a_checkpoint_is_sent_as_it_was_while_the_next_one_is_written(made):
    found, shared, now, _ = made
    shared.may_end.clear()
    save(made, 1)
    now[0] += 100
    save(made, 2)  # the first one is still under way
    shared.may_end.set()
    rest(made)
    assert shared.sent == [{"training/checkpoint.pt": "epoch 1"}]
    assert not list((shared.folder / ".store").glob("picture"))


def test_checkpoints_are_sent_now_and_then_only(made):
    _, shared, now, _ = made
    for epoch in range(10):
        save(made, epoch)
        rest(made)
        now[0] += 10
    assert shared.sent == [{"training/checkpoint.pt": f"epoch {epoch}"} for epoch in (0, 3, 6, 9)]


def test_an_outage_costs_a_warning_and_the_next_checkpoint_is_another_try(made, caplog):
    _, shared, now, _ = made
    shared.fault = TransferError("MLflow does not answer")
    for epoch in range(3):
        save(made, epoch)
        rest(made)
        now[0] += 100
    assert [record.message for record in caplog.records] == [
        "a checkpoint is not sent, the run goes on: MLflow does not answer"
    ]
    shared.fault = None
    save(made, 3)
    rest(made)
    assert shared.sent == [{"training/checkpoint.pt": "epoch 3"}]


def test_a_run_that_goes_on_elsewhere_is_told_so(made):
    _, shared, _, taken = made
    shared.fault = TakenOverError("run goes on elsewhere")
    save(made, 1)
    rest(made)
    assert taken == [shared.fault]


def test_at_the_end_the_whole_folder_is_sent_after_what_is_under_way(made):
    found, shared, _, _ = made
    shared.may_end.clear()
    save(made, 1)
    threading.Timer(0.1, shared.may_end.set).start()
    found.finish()
    assert shared.sent == [{"training/checkpoint.pt": "epoch 1"}, None]


def test_a_folder_of_somebody_else_is_nobodys_business(made, tmp_path_factory):
    found, shared, _, _ = made
    found.changed(tmp_path_factory.mktemp("elsewhere"))
    sending.written(shared.folder / "training")  # no run of this process sends anything
    assert shared.sent == []
