"""What a host writes on runs that need several: news at once, the minutes left now and then, nothing twice."""

from contextlib import nullcontext
from dataclasses import replace

import httpx
import pytest

from gpu_pools.hosts.board import OfferBoard
from gpu_pools.hosts.offers import LABEL, Offer, offers_of
from gpu_pools.prefect_client import Run

READY = Offer(0, True, "cuda:0 is kept for it")
RUN = Run("r", "run", "cuda.training", None, "SCHEDULED", "Waiting", "", 0.0, {}, "")


class Labels:
    """Prefect's server, as far as labels go."""

    def __init__(self) -> None:
        self.written: list[str] = []
        self.now = 0.0

    def set_labels(self, run_id: str, labels: dict[str, str]) -> None:
        assert run_id == "r"
        self.written.append(labels[f"{LABEL}boxa"])

    def run(self) -> Run:
        return replace(RUN, offers=offers_of({f"{LABEL}boxa": self.written[-1]} if self.written else {}))


@pytest.fixture
def server():
    return Labels()


@pytest.fixture
def board(server):
    return OfferBoard(server, "boxa", lambda: server.now)


def test_what_decides_is_written_at_once_and_what_is_shown_is_not_written_again(server, board):
    board.tell([(server.run(), Offer(600, True, "soon"))])
    board.tell([(server.run(), READY)])
    board.tell([(server.run(), READY)])
    server.now += 60
    board.tell([(server.run(), READY)])
    assert server.written == [Offer(600, True, "soon").as_label(), READY.as_label()]


@pytest.mark.parametrize(("status", "is_told"), [(503, False), (500, True)])
def test_a_server_that_is_busy_is_told_at_the_next_turn(server, board, monkeypatch, status, is_told):
    request = httpx.Request("PATCH", "http://server/labels")
    refusal = httpx.HTTPStatusError("no", request=request, response=httpx.Response(status, request=request))
    with monkeypatch.context() as patch, pytest.raises(httpx.HTTPStatusError) if is_told else nullcontext():
        patch.setattr(Labels, "set_labels", lambda *_: (_ for _ in ()).throw(refusal))
        board.tell([(server.run(), READY)])
    board.tell([(server.run(), READY)])
    assert server.written == [READY.as_label()]


def test_minutes_that_pass_are_written_now_and_then(server, board):
    for left in range(20):
        board.tell([(server.run(), Offer(1200, True, f"about {20 - left} min more"))])
        server.now += 1
    assert len(server.written) == 2


def test_what_another_one_has_cleared_is_offered_again_before_long(server, board):
    board.tell([(server.run(), READY)])
    board.tell([(RUN, READY)])
    assert len(server.written) == 1
    server.now += 2
    board.tell([(RUN, READY)])
    assert len(server.written) == 2


def test_a_host_that_starts_nothing_more_takes_its_offers_back(server, board):
    board.tell([(server.run(), READY)])
    board.take_back()
    board.take_back()
    assert server.written[1:] == [""]
    board.tell([(server.run(), READY)])
    assert server.written[2:] == [READY.as_label()]


def test_an_offer_that_does_not_hold_any_more_is_taken_back(server, board):
    board.tell([(server.run(), READY)])
    board.tell([(server.run(), None)])
    assert server.written[1:] == [""]
