"""Prefect's API by plain REST, as a program of one's own asks it: things are made and deleted, too."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx

from deployments.runs.prefect_http import Ask


@contextmanager
def rest(api: str) -> Iterator[Ask]:
    """Yield how to ask an API: (method, path, body) -> the answer, None for nothing."""
    with httpx.Client(base_url=api, timeout=60) as client:

        def call(method: str, path: str, body: Any) -> Any:
            answer = client.request(method, path, json=body)
            assert answer.is_success, (method, path, body, answer.text)
            return answer.json() if answer.content else None

        yield call
