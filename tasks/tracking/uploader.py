"""The thread that sends a journal to MLflow, and tries again until it has arrived."""

import logging
import re
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal

from gpu_pools.stopping import look, pause
from tasks.base.errors import TrackingError, TransferError
from tasks.store.arrivals import goes_on_elsewhere
from tasks.store.sending import check_active
from tasks.tracking import mlflow_api
from tasks.tracking.journal import Card, Journal, is_wanted, now_ms, read_card, sole_writer, write_card

logger = logging.getLogger(__name__)

Status = Literal["FINISHED", "FAILED", "KILLED"]

# What requests says of a server that cannot be reached, around the one thing that people want to know.
_UNREACHED = re.compile(
    r"(API request to \S+ failed) with exception .*"
    r"(Connection refused|timed out|Connection reset by peer|Remote end closed|Name or service not known)"
)
_BATCH = 900  # values in one call; MLflow refuses more than 1000
_GATHER_S = 0.5  # lines of one moment travel together
_LONGEST_PAUSE_S = 15.0
_PATIENCE_S = 60.0  # of what needs MLflow's answer, with MLflow not answering
_LONGEST_END_S = 1800.0  # at the end of a run, with MLflow answering: a large file on a slow line


class Uploader:
    """Sends what a journal holds, in order, again and again until it has arrived.

    Args:
        folder, card, journal: of the run.
        uri: of MLflow.
        gives_way: to a process that waits to write the run.
    """

    def __init__(self, folder: Path, card: Card, journal: Journal, uri: str, *, gives_way: bool = False) -> None:
        self.folder = folder
        self.card = card
        self.uri = uri
        self.error: BaseException | None = None  # of the latest attempt, None once one went well
        self._journal = journal
        self._gives_way = gives_way
        self._client: Any = None
        self._started = threading.Event()  # the MLflow run exists
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._done = threading.Event()
        self._given_up = threading.Event()
        self._thread = threading.Thread(target=self._run, name="mlflow-uploader", daemon=True)

    def start(self, wait_s: float) -> None:
        """Begin to send in the background; return when the MLflow run exists, or after `wait_s` without it.

        Raises:
            TrackingError: MLflow answers, and will never take the run.
        """
        self._thread.start()
        limit = time.monotonic() + wait_s
        while not self._started.wait(0.05) and time.monotonic() < limit:
            look()
            if self._done.is_set() or self.is_hopeless:
                self.give_up()
                assert self.error is not None
                where = mlflow_api.public_uri(self.uri)
                raise TrackingError(
                    f"cannot begin a run in MLflow at {where}: {first_line(self.error)}"
                ) from self.error

    def wake(self) -> None:
        """Say that there is something to send."""
        self._wake.set()

    def give_up(self) -> None:
        """Stop sending; a request under way is not counted as arrived, and sent again by who comes next."""
        self._given_up.set()
        self._closing.set()
        self._wake.set()

    @property
    def is_hopeless(self) -> bool:
        """Whether MLflow has answered that it will never take what was sent last."""
        return self.error is not None and mlflow_api.is_hopeless(self.error)

    def finish(self, patience_s: float = _PATIENCE_S, longest_s: float = _LONGEST_END_S) -> bool:
        """Send the rest and stop; return whether all of it has arrived.

        Args:
            patience_s: give up when MLflow has not answered for so long.
            longest_s: give up in any case.
        """
        self._closing.set()
        self._wake.set()
        begin = time.monotonic()
        quiet_since, sent = begin, self._journal.sent
        while not self._done.wait(0.05):
            now = time.monotonic()
            if self._journal.sent != sent or (self.error is None and now - begin < longest_s):
                quiet_since, sent = now, self._journal.sent
            if self.is_hopeless or now - quiet_since > patience_s or now - begin > longest_s:
                self.give_up()
                break
        return self._done.is_set() and self._journal.all_sent and self.error is None

    def flush(self, patience_s: float = _PATIENCE_S, longest_s: float = _LONGEST_END_S) -> bool:
        """Return whether all there is now has arrived; wait while MLflow takes it.

        Args:
            patience_s: give up when MLflow has not answered for so long.
            longest_s: give up in any case: one large file moves nothing forward until it has arrived.
        """
        begin = time.monotonic()
        quiet_since, sent = begin, self._journal.sent
        self._wake.set()
        while not self._journal.all_sent:
            now = time.monotonic()
            if self._journal.sent != sent or self.error is None:
                quiet_since, sent = now, self._journal.sent
            if self.is_hopeless or self._done.is_set() or now - quiet_since > patience_s or now - begin > longest_s:
                return False
            pause(0.05)
        return True

    def send_all(self) -> None:
        """Send all there is now, in this thread; raises what MLflow raises."""
        self._ensure_run()
        rows: list[tuple[str, float, int, int]] = []
        pending = 0
        for entry, offset in self._journal.entries(self._journal.sent):
            if entry["op"] == "metrics":
                rows += [(key, value, entry["time"], entry["step"]) for key, value in entry["values"].items()]
                pending = offset
                if len(rows) >= _BATCH:
                    self._send_rows(rows, offset)
                    rows = []
                continue
            if rows:
                self._send_rows(rows, pending)
                rows = []
            mlflow_api.send(self._client, self.card, self._journal, entry)
            self._mark(offset)
            mlflow_api.discard(self._journal, entry)
        if rows:
            self._send_rows(rows, pending)

    def _ensure_run(self) -> None:
        if self._started.is_set():
            return
        self._client = mlflow_api.client(self.uri)
        self.card = mlflow_api.ensure_run(self._client, self.uri, self.card)
        if not self._given_up.is_set():
            write_card(self.folder, self.card)
            self._started.set()

    def _send_rows(self, rows: list[tuple[str, float, int, int]], offset: int) -> None:
        assert self.card.run_id is not None
        for start in range(0, len(rows), _BATCH):
            mlflow_api.send_metrics(self._client, self.card.run_id, rows[start : start + _BATCH])
        self._mark(offset)

    def _mark(self, offset: int) -> None:
        if self._given_up.is_set():
            raise TrackingError("given up while MLflow had not answered")
        self._journal.mark_sent(offset)
        if self._gives_way and not self._journal.all_sent and is_wanted(self.folder):
            raise TrackingError(f"another process goes on with the run in {self.folder}, and sends the rest")
        if self.error is not None:
            logger.info("MLflow at %s answers again", mlflow_api.public_uri(self.uri))
            self.error = None

    def _run(self) -> None:
        try:
            with self._reported():
                self._loop()
        finally:
            self._done.set()

    @contextmanager
    def _reported(self) -> Iterator[None]:
        # An error that ends the thread must reach the code that waits for it.
        try:
            yield
        except BaseException as exc:
            if not self._given_up.is_set():
                self.error = exc
                logger.error("the journal %s is no longer sent to MLflow: %s", self._journal.path, exc)

    def _loop(self) -> None:
        pause = _GATHER_S
        while not self._given_up.is_set():
            # Read before sending, so that what is appended meanwhile, by a caller who then ends, is sent too.
            closing = self._closing.is_set()
            self._wake.clear()
            try:
                if self.error is not None:  # the network may have been away, and another host have taken the run over
                    check_active()
                self._journal.sync()  # only what survives a power cut may be sent, otherwise it could be sent twice
                self.send_all()
                self.error = None
                pause = _GATHER_S
            except (*mlflow_api.TRANSIENT, TransferError) as exc:
                self._complain(exc)
                pause = min(2 * pause, _LONGEST_PAUSE_S)
                if closing:
                    self._given_up.wait(min(pause, 2.0))
                else:
                    self._closing.wait(pause)
                continue
            if closing:
                return
            self._wake.wait()
            self._closing.wait(_GATHER_S)

    def _complain(self, exc: BaseException) -> None:
        if self.error is None:
            logger.warning(
                "MLflow at %s does not take what the run logs; it is kept in %s and sent later (%s)",
                mlflow_api.public_uri(self.uri),
                self._journal.path,
                first_line(exc),
            )
        self.error = exc


def first_line(exc: BaseException) -> str:
    """Return the beginning of an error's message, without the user and password of an address in it."""
    text = (str(exc).strip() or type(exc).__name__).splitlines()[0]
    if found := _UNREACHED.match(text):
        text = f"{found[1]}: {found[2].lower()}"
    return mlflow_api.public_uri(text[:300])


def not_sent(uploader: Uploader, journal: Journal) -> TrackingError:
    """Return the error that says what could not be sent, why, and how to send it later."""
    run, cause = uploader.folder.parent.name, uploader.error or TimeoutError("it did not answer in time")
    fault = TrackingError(
        f"MLflow at {mlflow_api.public_uri(uploader.uri)} did not take all of the run: {first_line(cause)}. Nothing "
        f"is lost, {journal.path} holds it; the worker sends it later, or you: `yard sync {run}`"
    )
    fault.__cause__ = cause
    return fault


def upload(folder: Path, status: Status | None = None) -> str:
    """Send what a dead run left unsent in `folder`; return the MLflow run's id. Twice is as good as once.

    It ends early where a process waits to go on with the run, which then sends the rest. Where another host goes on
    with the run, nothing is sent: that one logs the same, and how the run ends.

    Args:
        folder: as given to `Tracker.open`.
        status: what became of the run, where its process could not say so itself.

    Raises:
        TrackingError: there is no run; its process lives, or wants to go on; or MLflow does not take it.
    """
    card = read_card(folder)
    if card is None:
        raise TrackingError(f"found no run in {folder}, need the folder of a tracked run")
    with sole_writer(folder), ExitStack() as stack:
        journal = Journal(folder)
        stack.callback(journal.close)
        if _is_old(folder) and card.run_id is not None:
            for _, offset in journal.entries(journal.sent):
                journal.mark_sent(offset)
            return card.run_id
        if status and not journal.ended:
            journal.append({"op": "end", "status": status, "time": now_ms()})
        uploader = Uploader(folder, card, journal, mlflow_api.tracking_uri(), gives_way=True)
        try:
            uploader.send_all()
        except mlflow_api.TRANSIENT as exc:
            uploader.error = exc
            raise not_sent(uploader, journal) from exc
        shutil.rmtree(journal.outbox, ignore_errors=True)
        assert uploader.card.run_id is not None
        return uploader.card.run_id


def _is_old(folder: Path) -> bool:
    """Return whether another host goes on with a run, and logs what this one has logged, and how it ends.

    Raises:
        TrackingError: MLflow does not answer.
    """
    try:
        return goes_on_elsewhere(folder)
    except TransferError as exc:
        raise TrackingError(f"cannot ask whether the run in {folder} goes on on another host: {exc}") from exc
