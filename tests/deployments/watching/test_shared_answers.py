"""Of all who follow, one asks."""

import threading
import time

import pytest

from deployments.watching.picture import ServerView
from deployments.watching.shared_answers import FRESH_S, SharedAnswers
from tests.deployments.watching.test_top import row


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("TRAINYARD_HOME", str(tmp_path))
    return tmp_path


class Server:
    def __init__(self, fault=""):
        self.asked, self.fault = 0, fault

    def __call__(self):
        self.asked += 1
        time.sleep(0.2)
        return ServerView([row("r1", "RUNNING", "Running")], {"cuda:0.training": 1}, self.fault, time.time())


def test_ten_who_follow_ask_once_and_see_the_same():
    server, seen = Server(), []
    others = [threading.Thread(target=lambda: seen.append(SharedAnswers(server)())) for _ in range(10)]
    for other in others:
        other.start()
    for other in others:
        other.join()
    assert server.asked == 1
    assert len({view.at for view in seen}) == 1
    assert all(
        [*view.rows] == [row("r1", "RUNNING", "Running")] and view.limits == {"cuda:0.training": 1} for view in seen
    )


def test_an_answer_that_is_not_fresh_is_asked_for_anew():
    server = Server()
    SharedAnswers(server)()
    SharedAnswers(server, lambda: time.time() + FRESH_S)()
    SharedAnswers(server, lambda: time.time() - 5)()  # of a host whose clock is ahead
    assert server.asked == 3


def test_an_answer_of_another_server_is_handed_to_nobody(monkeypatch):
    server = Server()
    for address in ("http://127.0.0.1:1/api", "http://127.0.0.1:1/api", "http://127.0.0.1:2/api"):
        monkeypatch.setenv("PREFECT_API_URL", address)
        SharedAnswers(server)()
    assert server.asked == 2


def test_no_answer_is_handed_to_nobody(home):
    server = Server("no answer")
    assert [SharedAnswers(server)().fault for _ in range(2)] == ["no answer"] * 2
    (home / "following.json").write_text('{"at": "x", "rows": []}')
    assert SharedAnswers(server)().fault == "no answer"
    assert server.asked == 3
