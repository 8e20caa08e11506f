"""Counts what the gate does, as Prometheus reads it."""

import time
from collections import deque
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from tasks.vision_language.gate.request_slots import RequestSlots

_SECONDS = (0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 120, 300)
_RATES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
LEFT = "left"
"""The answer to a client that went away."""

_MOST_TIMES = 10_000


@dataclass(frozen=True, slots=True)
class Totals:
    """What a gate has done so far.

    Args:
        requests: by what they were answered.
        prompt_tokens, new_tokens: of whole answers.
    """

    requests: dict[str, int]
    prompt_tokens: int
    new_tokens: int


class Counters:
    """The figures of one gate.

    Args:
        slots: that are shown.
    """

    def __init__(self, slots: RequestSlots) -> None:
        self._all = CollectorRegistry()
        self.requests = self._counter("requests", "Requests by what they were answered", ["answer"])
        self.prompt_tokens = self._counter("prompt_tokens", "Tokens of questions, images included")
        self.new_tokens = self._counter("generated_tokens", "Tokens of answers")
        self.first_token_s = self._histogram("time_to_first_token_seconds", "From request to first text", _SECONDS)
        self.request_s = self._histogram("request_seconds", "From request to the end of its answer", _SECONDS)
        self.first_times: deque[float] = deque(maxlen=_MOST_TIMES)
        """Seconds to the first text, the latest ones; who reads them may clear them."""
        self.rate = self._histogram("tokens_per_second", "Of an answer, from its first token", _RATES)
        for name, read in (
            ("requests_running", lambda: slots.taken),
            ("requests_waiting", lambda: slots.waiting),
            ("requests_limit", lambda: slots.limit),
        ):
            Gauge(f"trainyard_gate_{name}", "Now", registry=self._all).set_function(read)

    def _counter(self, name: str, text: str, labels: list[str] | None = None) -> Counter:
        return Counter(f"trainyard_gate_{name}", text, labels or [], registry=self._all)

    def _histogram(self, name: str, text: str, edges: tuple[float, ...]) -> Histogram:
        return Histogram(f"trainyard_gate_{name}", text, buckets=edges, registry=self._all)

    def totals(self) -> Totals:
        """Return what was counted until now."""
        requests = {labels["answer"]: n for labels, n in _counted(self.requests)}
        ((_, asked),), ((_, made),) = _counted(self.prompt_tokens), _counted(self.new_tokens)
        return Totals(requests, asked, made)

    def text(self) -> bytes:
        """Return all of them in Prometheus' text format."""
        return generate_latest(self._all)


def _counted(counter: Counter) -> list[tuple[dict[str, str], int]]:
    samples = [sample for metric in counter.collect() for sample in metric.samples]
    return [(dict(sample.labels), int(sample.value)) for sample in samples if sample.name.endswith("_total")]


class Watch:
    """The times of one answer.

    Args:
        counters: that they are added to.
    """

    def __init__(self, counters: Counters) -> None:
        self._counters, self._begun = counters, time.monotonic()
        self._first: float | None = None
        self._pieces = 0

    def said(self, n_pieces: int) -> None:
        """Note that so many pieces of text have come."""
        self._pieces += n_pieces
        if self._first is None and n_pieces:
            self._first = time.monotonic()
            self._counters.first_token_s.observe(self._first - self._begun)
            self._counters.first_times.append(self._first - self._begun)

    def ended(self, usage: dict[str, int]) -> dict[str, int]:
        """Note the end of a whole answer; return its numbers of tokens, of an engine that does not count its pieces."""
        now = time.monotonic()
        asked, made = usage.get("prompt_tokens", 0), usage.get("completion_tokens", self._pieces)
        self._counters.prompt_tokens.inc(asked)
        self._counters.new_tokens.inc(made)
        self._counters.request_s.observe(now - self._begun)
        if self._first is not None and made > 1 and now > self._first:
            self._counters.rate.observe((made - 1) / (now - self._first))
        return {"prompt_tokens": asked, "completion_tokens": made, "total_tokens": asked + made}
