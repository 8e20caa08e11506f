"""A message is handed to a recipient once, whoever asks and whatever dies meanwhile."""

import threading
from uuid import uuid4

import pytest

from deployments.notices.messages import Message, SendError
from deployments.notices.receipts import Receipt, deliver, forget, read_receipt, receipt_file
from tasks.base.workspace import write_json

MESSAGE = Message(str(uuid4()), "failed", "subject", "text")


@pytest.fixture(autouse=True)
def _home(tmp_path, monkeypatch):
    monkeypatch.setenv("TRAINYARD_HOME", str(tmp_path))


def receipt(name="anna"):
    return read_receipt(MESSAGE.id, name)


def test_the_second_time_nothing_is_sent():
    sent = []
    for _ in range(2):
        deliver(MESSAGE, "anna", lambda: sent.append(1) or "250 ok")
    assert (len(sent), receipt().sent, receipt().answer) == (1, True, "250 ok")
    deliver(MESSAGE, "ben", lambda: sent.append(1) or "250 ok")
    assert len(sent) == 2


def test_what_was_not_taken_is_sent_again():
    def refuse():
        raise SendError("the server is away")

    with pytest.raises(SendError):
        deliver(MESSAGE, "anna", refuse)
    assert (receipt().sent, receipt().answer) == (False, "the server is away")
    deliver(MESSAGE, "anna", lambda: "250 ok")
    assert receipt().sent


def test_what_was_on_its_way_when_its_process_died_is_sent_again():
    path = receipt_file(MESSAGE.id, "anna")
    path.parent.mkdir(parents=True)
    write_json(path, {"sent": False, "answer": "", "at": 0.0})
    deliver(MESSAGE, "anna", lambda: "250 ok")
    assert receipt().sent


def test_two_at_once_send_it_once():
    begun, go, sent = threading.Event(), threading.Event(), []

    def slow():
        begun.set()
        go.wait(10)
        sent.append(1)
        return "250 ok"

    first = threading.Thread(target=deliver, args=(MESSAGE, "anna", slow))
    first.start()
    begun.wait(10)
    deliver(MESSAGE, "anna", slow)
    go.set()
    first.join()
    assert len(sent) == 1


def test_nothing_is_left_of_what_is_told_of_elsewhere(tmp_path):
    deliver(MESSAGE, "anna", lambda: "250 ok")
    forget(MESSAGE.id)
    assert receipt() is None
    assert list((tmp_path / "notices" / "receipts").iterdir()) == []


def test_a_receipt_begins_before_anything_is_sent():
    deliver(MESSAGE, "anna", lambda: str(receipt() == Receipt()))
    assert receipt().answer == "True"
