"""What every client of Prefect's API must know of its limits, and how a long answer is read."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

Row = TypeVar("Row", bound=Mapping[str, Any])

PAGE = 200
"""The most rows that the server gives in one answer."""

BULK = 100
"""The most runs that the server creates in one call."""


def read_pages(ask: Callable[[dict[str, Any]], Sequence[Row]], body: Mapping[str, Any]) -> Iterator[Row]:
    """Yield every row of a filter, page by page; rows that come or go meanwhile may be missed, or come twice.

    Args:
        ask: sends a body to the filter, and returns its rows.
        body: of the request, without `limit` and `offset`.
    """
    n_read = 0
    while True:
        rows = ask({**body, "limit": PAGE, "offset": n_read})
        yield from rows
        if len(rows) < PAGE:
            return
        n_read += PAGE
