"""Shows what a model was asked, and what it answered, in MLflow's tab Traces."""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import (
    Assessment,
    AssessmentSource,
    AssessmentSourceType,
    Expectation,
    Feedback,
    SpanType,
    TraceInfo,
    TraceLocation,
    TraceState,
)
from mlflow.entities.span import Span
from mlflow.exceptions import MlflowException
from mlflow.tracing.client import TracingClient
from mlflow.tracing.constant import SpanAttributeKey, TokenUsageKey, TraceMetadataKey, TraceTagKey

from tasks.tracking.journal import Card

logger = logging.getLogger(__name__)

FILE = "trace.json"
_PREVIEW = 1000  # characters, in MLflow's table


@dataclass(frozen=True, slots=True)
class Trace:
    """A question to a model and its answer, in the forms of OpenAI's chat API, which MLflow's page draws as a talk."""

    key: str  # what is sent under the same key by the same run is one trace
    name: str
    began_ns: int  # Unix time
    ended_ns: int
    inputs: dict[str, Any]  # a request: model, messages
    outputs: dict[str, Any]  # the response: choices
    question: str  # for the table of traces
    answer: str
    n_prompt: int  # tokens
    n_new: int
    model: str
    error: str | None = None
    right_answer: str | None = None
    correct: bool | None = None
    tags: Mapping[str, str] = field(default_factory=dict)


def send_trace(store: MlflowClient, card: Card, place: Path) -> None:
    """Give MLflow a trace; sent twice it is there once. One that MLflow will never take is told and left out.

    Args:
        store: MLflow.
        card: of the run it belongs to, which MLflow knows.
        place: the folder of its file, as `Tracker.trace` left it.
    """
    trace = Trace(**json.loads((place / FILE).read_bytes()))
    client = TracingClient(store.tracking_uri)
    assert card.experiment_id is not None, "traces are sent once the run is there"
    try:
        client.log_spans(card.experiment_id, [_span(trace, card)])
        client.start_trace(_info(trace, card))
    except NotImplementedError as exc:
        logger.warning("this MLflow takes no traces: %s is left out (%s)", trace.name, exc)
    except MlflowException as exc:
        if exc.error_code not in {"INVALID_PARAMETER_VALUE", "BAD_REQUEST"}:
            raise
        logger.warning("MLflow does not take the trace %s, which is left out: %s", trace.name, exc.message)


def trace_id(card: Card, key: str) -> str:
    """Return under which id a trace of a run is found."""
    return f"tr-{_digest(card, key, 16)}"


def _digest(card: Card, key: str, n_bytes: int) -> str:
    return blake2b(f"{card.token}/{key}".encode(), digest_size=n_bytes).hexdigest()


def _usage(trace: Trace) -> dict[str, int]:
    return {
        TokenUsageKey.INPUT_TOKENS: trace.n_prompt,
        TokenUsageKey.OUTPUT_TOKENS: trace.n_new,
        TokenUsageKey.TOTAL_TOKENS: trace.n_prompt + trace.n_new,
    }


def _span(trace: Trace, card: Card) -> Span:
    attributes: dict[str, Any] = {
        SpanAttributeKey.REQUEST_ID: trace_id(card, trace.key),
        SpanAttributeKey.SPAN_TYPE: SpanType.CHAT_MODEL,
        SpanAttributeKey.INPUTS: trace.inputs,
        SpanAttributeKey.OUTPUTS: trace.outputs,
        SpanAttributeKey.CHAT_USAGE: _usage(trace),
        SpanAttributeKey.MODEL: trace.model,
        SpanAttributeKey.MESSAGE_FORMAT: "openai",
    }
    return Span.from_dict(
        {
            "trace_id": trace_id(card, trace.key),
            "span_id": _digest(card, f"span/{trace.key}", 8),
            "parent_span_id": "",
            "name": trace.name,
            "start_time_unix_nano": trace.began_ns,
            "end_time_unix_nano": trace.ended_ns,
            "attributes": {name: json.dumps(value) for name, value in attributes.items()},
            "status": {"code": "ERROR" if trace.error else "OK", "message": trace.error or ""},
            "events": [],
        }
    )


def _info(trace: Trace, card: Card) -> TraceInfo:
    assert card.run_id is not None, "traces are sent once the run is there"
    assert card.experiment_id is not None, "as the run"
    return TraceInfo(
        trace_id=trace_id(card, trace.key),
        trace_location=TraceLocation.from_experiment_id(card.experiment_id),
        request_time=trace.began_ns // 1_000_000,
        execution_duration=(trace.ended_ns - trace.began_ns) // 1_000_000,
        state=TraceState.ERROR if trace.error else TraceState.OK,
        request_preview=_preview(trace.question),
        response_preview=_preview(trace.answer),
        trace_metadata={
            TraceMetadataKey.SOURCE_RUN: card.run_id,
            TraceMetadataKey.TOKEN_USAGE: json.dumps(_usage(trace)),
        },
        tags={TraceTagKey.TRACE_NAME: trace.name, "model": trace.model, **trace.tags},
        assessments=_assessments(trace, card),
    )


def _preview(text: str) -> str:
    return text.replace("\0", "")[:_PREVIEW]  # PostgreSQL holds no NUL


def _assessments(trace: Trace, card: Card) -> list[Assessment]:
    made: list[Assessment] = []
    source = AssessmentSource(AssessmentSourceType.CODE, "trainyard")
    if trace.correct is not None:
        made.append(Feedback(name="correct", value=trace.correct, source=source))
    if trace.right_answer is not None:
        made.append(Expectation(name="right_answer", value=trace.right_answer, source=source))
    for one in made:
        one.trace_id = trace_id(card, trace.key)
        one.assessment_id = f"a-{_digest(card, f'{one.name}/{trace.key}', 16)}"  # else a second time adds a second one
    return made
