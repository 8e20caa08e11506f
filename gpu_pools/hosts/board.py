"""Writes on runs that need several hosts what this host offers them, where the others read it."""

from collections.abc import Callable, Sequence

import httpx

from gpu_pools.hosts.offers import LABEL, Offer
from gpu_pools.prefect_client import PoolClient, Run

_AGAIN_S = 2.0
_TEXT_EVERY_S = 10.0  # the minutes left change often, and nobody decides by them


class OfferBoard:
    """What this host has said on runs.

    Args:
        client: of Prefect's server.
        host: this one's name.
        clock: Unix seconds.
    """

    def __init__(self, client: PoolClient, host: str, clock: Callable[[], float]) -> None:
        self._client, self._host, self._clock = client, host, clock
        self._said: dict[str, tuple[Offer | None, float]] = {}

    def tell(self, offers: Sequence[tuple[Run, Offer | None]]) -> None:
        """Write what is news.

        Args:
            offers: of every run that needs several hosts and waits, as it was read, with what this host offers it.

        Raises:
            httpx.HTTPError: the server does not answer.
        """
        for run, offer in offers:
            if self._is_news(run, offer) and self._written(run.id, offer):
                self._said[run.id] = (offer, self._clock())
        for gone in self._said.keys() - {run.id for run, _ in offers}:
            del self._said[gone]

    def _written(self, run_id: str, offer: Offer | None) -> bool:
        """Write an offer; return whether that was possible: SQLite lets no two hosts write on a run at once."""
        try:
            self._client.set_labels(run_id, {f"{LABEL}{self._host}": _label(offer)})
            return True
        except httpx.HTTPStatusError as exc:
            if exc.response.status_code != httpx.codes.SERVICE_UNAVAILABLE:
                raise
            return False  # the next turn tries again

    def take_back(self) -> None:
        """Offer nothing for now.

        Raises:
            httpx.HTTPError: the server does not answer.
        """
        for run_id, (offer, _) in list(self._said.items()):
            if offer is not None:
                self._client.set_labels(run_id, {f"{LABEL}{self._host}": ""})
            del self._said[run_id]

    def _is_news(self, run: Run, offer: Offer | None) -> bool:
        shown = run.offers.get(self._host)
        said, when = self._said.get(run.id, (shown, float("-inf")))
        if _decided(said) != _decided(offer):
            return True
        # What is shown may be read late, be cleared by who had begun with the run, or be lost: the server reads all
        # labels of a run before it writes them.
        every_s = _AGAIN_S if _decided(shown) != _decided(offer) else _TEXT_EVERY_S
        return self._clock() - when >= every_s and _label(shown) != _label(offer)


def _decided(offer: Offer | None) -> tuple[bool, ...]:
    return () if offer is None else (offer.kept, offer.stands, offer.ready_in_s <= 0)


def _label(offer: Offer | None) -> str:
    return "" if offer is None else offer.as_label()
