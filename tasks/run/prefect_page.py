"""Shows progress, tables, links and a summary on the Prefect page of a run.

The page is a courtesy to who watches: where Prefect's API does not answer, the work goes on and the log says so once.
"""

import contextvars
import json
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self
from uuid import UUID

import httpx
from prefect.artifacts import (
    create_link_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactUpdate
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    ArtifactFilterKey,
    FlowRunFilter,
    FlowRunFilterId,
    TaskRunFilter,
    TaskRunFilterState,
    TaskRunFilterStateType,
)
from prefect.client.schemas.objects import State, StateType
from prefect.context import FlowRunContext, TaskRunContext
from prefect.exceptions import PrefectException
from prefect.runtime import flow_run
from prefect.states import Crashed

logger = logging.getLogger(__name__)

Row = Mapping[str, Any]

_made: set[tuple[str, str]] = set()  # (flow run, key) of the artifacts of this process


def inside_run() -> bool:
    """Return whether this code runs in a Prefect task or flow; a step called as a plain function has no page."""
    return FlowRunContext.get() is not None or TaskRunContext.get() is not None


class Page:
    """Artifacts of the running step; progress and table are sent from a thread, the newest state only.

    Args:
        key: of the artifacts, which Prefect lists over all runs: lower case letters, digits and dashes.
        what: is done, for the descriptions: "Training".
        columns: of a row, those that the table has room for; a second table has all metrics of the last row. Empty:
            the table has all of them.
        every_s: seconds between two updates.
    """

    def __init__(self, key: str, what: str, *, columns: Sequence[str] = (), every_s: float = 5.0) -> None:
        self._key, self._what, self._columns, self._every_s = key, what, columns, every_s
        self._on = inside_run()
        self._share = 0.0
        self._rows: list[Row] = []
        self._sent: tuple[float, int] = (-1.0, 0)
        self._ids: dict[str, UUID] = {}
        self._complained = False
        self._stop = threading.Event()
        # A copy of the context: Prefect finds out from it which run an artifact belongs to.
        self._thread = threading.Thread(
            target=contextvars.copy_context().run, args=(self._loop,), name="prefect-page", daemon=True
        )

    def __enter__(self) -> Self:
        if self._on:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._on:
            self._stop.set()
            self._thread.join()
            self._send()

    def progress(self, share: float) -> None:
        """Move the progress bar to `share` in [0, 1]."""
        self._share = share

    def row(self, row: Row) -> None:
        """Add a row to the table."""
        self._rows.append(row)

    def _loop(self) -> None:
        while not self._stop.wait(self._every_s):
            self._send()

    def _send(self) -> None:
        state = (round(100 * self._share, 1), len(self._rows))
        if state == self._sent:
            return
        try:
            self._send_progress(state[0])
            if self._rows and state[1] != self._sent[1]:
                self._send_table(list(self._rows))
            self._sent = state
        except (httpx.HTTPError, PrefectException, RuntimeError) as exc:
            if not self._complained:
                _complain(exc)
            self._complained = True

    def _send_progress(self, percent: float) -> None:
        if "progress" in self._ids:
            update_progress_artifact(self._ids["progress"], progress=percent)
            return
        key = f"{self._key}-progress"
        forget_earlier(key)
        found = create_progress_artifact(progress=percent, key=key, description=f"{self._what}: percent of the work")
        assert isinstance(found, UUID)
        self._ids["progress"] = found

    def _send_table(self, rows: Sequence[Row]) -> None:
        shown = [{name: row[name] for name in self._columns or row} for row in rows]
        self._send_rows("epochs", shown, f"{self._what}: metrics, the newest last")
        if self._columns:
            last = [{"figure": name, "value": value} for name, value in rows[-1].items()]
            self._send_rows("last", last, f"{self._what}: all metrics of the last row")

    def _send_rows(self, name: str, rows: list[dict[str, Any]], description: str) -> None:
        if name in self._ids:
            # Rewritten in place, because one artifact per epoch would fill the page.
            with get_client(sync_client=True) as client:
                client.update_artifact(self._ids[name], ArtifactUpdate(data=json.dumps(rows)))
            return
        key = f"{self._key}-{name}"
        forget_earlier(key)
        found = create_table_artifact(table=rows, key=key, description=description)
        assert isinstance(found, UUID)
        self._ids[name] = found


def forget_earlier(key: str) -> None:
    """Remove what an earlier attempt of the running flow has shown under a key: it would stand beside what is true now.

    Args:
        key: of the artifact that is about to be made.
    """
    run = str(flow_run.id)
    if (run, key) in _made:
        return
    if not any(run == other for other, _ in _made):
        _end_earlier_steps(run)
    wanted = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run]), key=ArtifactFilterKey(any_=[key]))
    with get_client(sync_client=True) as client:
        for found in client.read_artifacts(artifact_filter=wanted):
            client.delete_artifact(found.id)
    _made.add((run, key))


def _end_earlier_steps(run: str) -> None:
    """Mark the steps of earlier attempts as crashed: their process is gone, and they would look as if they ran."""
    wanted = FlowRunFilter(id=FlowRunFilterId(any_=[UUID(run)]))
    running = TaskRunFilter(state=TaskRunFilterState(type=TaskRunFilterStateType(any_=[StateType.RUNNING])))
    with get_client(sync_client=True) as client:
        attempt = client.read_flow_run(UUID(run)).run_count
        for step in client.read_task_runs(flow_run_filter=wanted, task_run_filter=running):
            if step.flow_run_run_count < attempt:
                state: State[Any] = Crashed(message="the process of this attempt is gone")
                client.set_task_run_state(step.id, state, force=True)


def show_link(key: str, url: str, text: str) -> None:
    """Put a link on the page of the running step."""
    _courtesy(key, lambda: create_link_artifact(link=url, link_text=text, key=key, description=text))


def show_markdown(key: str, text: str, what: str) -> None:
    """Put a formatted text on the page of the running step; `what` says of what it is."""
    _courtesy(key, lambda: create_markdown_artifact(markdown=text, key=key, description=what))


def show_table(key: str, rows: Sequence[Row], what: str) -> None:
    """Put a table on the page of the running step; `what` says of what it is."""
    _courtesy(key, lambda: create_table_artifact(table=[dict(row) for row in rows], key=key, description=what))


def _courtesy(key: str, create: Callable[[], object]) -> None:
    if not inside_run():
        return
    try:
        forget_earlier(key)
        create()
    except (httpx.HTTPError, PrefectException, RuntimeError) as exc:
        _complain(exc)


def _complain(exc: BaseException) -> None:
    logger.warning("the Prefect page was not updated (%s); the run goes on", exc)
