"""One MLflow run: written to a local journal at once, and sent to MLflow by a thread.

Training never waits for MLflow and loses nothing to its outages; a run that was killed goes on in the same
MLflow run. An outage at the start is waited for some seconds. One during the training is a warning, and what is in the
journal is sent when it is over. Where MLflow is still away at the end, the run ends all the same: its journal is sent
by whoever comes next, the worker (`gpu_pools.worker.monitor.catch_up`) or `yard sync`. What waits lies in the folder of
the step, TRAINYARD_HOME/runs/RUN/STEP: the rows in `journal.jsonl`, the files in `outbox/`.
"""

import json
import logging
import shutil
import uuid
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from tasks.base.errors import StopAsked, TrackingError
from tasks.base.workspace import storage_errors
from tasks.store.places import recorded
from tasks.store.setting import hosts_share_a_disk
from tasks.tracking import mlflow_api
from tasks.tracking.journal import Card, Journal, differing, now_ms, open_card, read_card, sole_writer
from tasks.tracking.mlflow_names import check_name, flatten, param_value, tag_value
from tasks.tracking.provenance import redacted, standard_tags
from tasks.tracking.traces import FILE as TRACE
from tasks.tracking.traces import Trace
from tasks.tracking.uploader import Status, Uploader, first_line, not_sent

logger = logging.getLogger(__name__)

R = TypeVar("R")

_MAX_DIGEST = 36
_END_PATIENCE_S = 15.0  # a device or a person may wait for the end; MLflow is restarted in less
_WRITER_PATIENCE_S = 60.0  # with a process that sends what an earlier one left, and gives way after each line
_LEFT_OPEN = {"patience_s": 5.0, "longest_s": 30.0}  # a device may be held meanwhile; who goes on sends the rest
_KILLED_PATIENCE_S = 10.0  # who cancels waits for the process to end, and kills it after 30 s
_CONNECT_S = 10.0  # the start of a run waits no longer for a server
_CONNECT_FILE_S = 120.0  # a new database file on a busy machine takes a while to be laid out


class Tracker:
    """One MLflow run, from `open` until the end of the `with` block."""

    def __init__(self, folder: Path, card: Card, journal: Journal, uri: str) -> None:
        """Use `Tracker.open`."""
        self.folder = folder
        self._journal = journal
        self._held = ExitStack()
        self._over = False
        self._more_follows = False
        self._uploader = Uploader(folder, card, journal, uri)
        self.unsent = ""  # once the run has ended: what MLflow has not got, why, and who sends it
        self.postponed = ""  # why work that needs MLflow was not done
        self.on_step_end: Callable[[int], None] | None = None  # of who watches beside the run
        self._steps: dict[str, set[int]] = defaultdict(set)
        self._latest: dict[str, float] = {}
        self._images: set[tuple[str, int]] = set()
        self._goes_on = False
        for entry, _ in journal.entries():
            self._goes_on = True
            if entry["op"] == "metrics":
                self._latest |= entry["values"]
                for key in entry["values"]:
                    self._steps[key].add(entry["step"])
            elif entry["op"] == "image" and "key" in entry:  # without it: of an earlier version
                self._images.add((entry["key"], entry["step"]))

    @classmethod
    def open(
        cls,
        folder: Path,
        experiment: str,
        run_name: str,
        params: Mapping[str, Any],
        tags: Mapping[str, str] | None = None,
        *,
        free_to_change: Collection[str] = (),
    ) -> Self:
        """Start a run, or go on with the one `folder` already holds.

        Waits a few seconds for MLflow; a run starts without it, too.

        Args:
            folder: this run's own; it must survive a crash. Holds the run's id, the journal and unsent files.
            experiment: made when missing.
            run_name: shown in the UI.
            params: nested mappings become names with dots; all in full in the artifact config/params.json.
            tags: besides those that say where the run comes from.
            free_to_change: parameters, by their names with dots, that may differ from those the run began with.
                MLflow keeps the first ones; the tag `resumed_with` says what the latest attempt changed.

        Raises:
            TrackingError: the folder holds another run, a process writes it, or MLflow will never take it.
            StorageError: the folder cannot be written.
        """
        with storage_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            stack.enter_context(sole_writer(folder, _WRITER_PATIENCE_S))
            flat = recorded(flatten(params))
            card = open_card(folder, experiment, run_name, flat, free_to_change)
            tracker = cls(folder, card, _journal(folder, stack), mlflow_api.tracking_uri())
            changed = ", ".join(f"{key}={flat.get(key)}" for key in differing(card.params, flat))
            tracker._begin(params, flat, {**(tags or {}), **({"resumed_with": changed} if changed else {})})
            tracker._learn()
            tracker._held = stack.pop_all()
        return tracker

    @classmethod
    def reopen(cls, folder: Path) -> Self:
        """Go on with the run that `folder` holds, as a later part of it: its parameters and tags stay as they are.

        Raises:
            TrackingError: the folder holds no run, a process writes it, or MLflow will never take it.
            StorageError: the folder cannot be written.
        """
        with ExitStack() as stack:
            card = read_card(folder)
            if card is None:
                raise TrackingError(f"found no run in {folder}, need the folder of a tracked run")
            stack.enter_context(sole_writer(folder, _WRITER_PATIENCE_S))
            tracker = cls(folder, card, _journal(folder, stack), mlflow_api.tracking_uri())
            tracker._append({"op": "begin", "time": now_ms()})
            tracker._connect()
            tracker._learn()
            tracker._held = stack.pop_all()
        return tracker

    def __enter__(self) -> Self:
        """Return the tracker; it runs since `open`."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the run: FINISHED, FAILED after an exception, KILLED after a cancel or Ctrl-C; not by StopAsked.

        Raises:
            TrackingError: MLflow will never take it. When the block itself failed, that is what is raised, and this
                is noted on it.
        """
        if isinstance(exc, StopAsked) or (exc is None and self._more_follows):
            self._pause(_in_a_hurry() if exc else _LEFT_OPEN)
            return
        if exc is None:
            self.end("FINISHED")
            return
        # Prefect's cancel, Ctrl-C and SystemExit are BaseExceptions; what went wrong is an Exception.
        status: Status = "FAILED" if isinstance(exc, Exception) else "KILLED"
        try:
            self.end(status)
        except TrackingError as refused:
            self.unsent = str(refused)
        if self.unsent:
            logger.warning("%s", self.unsent)
            exc.add_note(self.unsent)

    @property
    def run_id(self) -> str:
        """The id of the MLflow run.

        Raises:
            TrackingError: MLflow has not answered since the run began.
        """
        if self.known_id is None:
            raise not_sent(self._uploader, self._journal)
        return self.known_id

    @property
    def known_id(self) -> str | None:
        """The id of the MLflow run, None while MLflow has not answered since the run began."""
        return self._uploader.card.run_id

    @property
    def url(self) -> str:
        """The page of the run in MLflow's UI, or how to get there."""
        card = self._uploader.card
        if card.run_id is None or card.experiment_id is None:
            return f"no run yet: MLflow at {mlflow_api.public_uri(self._uploader.uri)} has not answered"
        return mlflow_api.run_url(self._uploader.uri, card.experiment_id, card.run_id)

    def metrics(self, values: Mapping[str, float | None], step: int, timestamp_ms: int | None = None) -> None:
        """Log one row; takes microseconds. None is left out; what was logged before for a key and step stays.

        Args:
            values: the part of a key before "/" becomes the section of MLflow's charts.
            step: the epoch, usually.
            timestamp_ms: since 1970; empty: now.
        """
        fresh = {}
        for key, value in values.items():
            if value is None or step in self._steps[key]:
                continue
            if not self._steps[key]:
                check_name("metric", key)
            fresh[key] = float(value)
        if not fresh:
            return
        moment = now_ms() if timestamp_ms is None else timestamp_ms
        self._append({"op": "metrics", "time": moment, "step": step, "values": fresh})
        self._latest |= fresh
        for key in fresh:
            self._steps[key].add(step)

    def latest(self, key: str) -> float | None:
        """Return the value that was logged last for `key`, by whichever attempt or part; None: there is none."""
        return self._latest.get(key)

    def logged_steps(self, key: str) -> set[int]:
        """Return the steps for which `key` is logged, those of the attempts before a crash included."""
        return set(self._steps.get(key, ()))

    def step_ended(self, step: int) -> None:
        """Let who watches beside the run add its metrics: an epoch, or what a training measures by, has just ended."""
        if self.on_step_end is not None:
            self.on_step_end(step)

    def logged_tag(self, key: str) -> str:
        """Return a tag as it was set last, by an attempt before a crash perhaps; "" for none."""
        set_to = [entry["values"][key] for entry, _ in self._journal.entries() if key in _tags(entry)]
        return str(set_to[-1]) if set_to else ""

    def sync(self) -> None:
        """Return when the rows so far would survive a power cut; to be called before a checkpoint."""
        self._journal.sync()

    def tag(self, key: str, value: str) -> None:
        """Set a tag of the run."""
        check_name("tag", key)
        self._append({"op": "tags", "values": {key: tag_value(value)}})

    def artifact(self, path: Path, folder: str = "") -> None:
        """Keep a file, or all below a folder, with the run as it is now; it may be removed right after."""
        self._append({"op": "files", "place": self._journal.stow(path), "folder": folder})

    def text(self, content: str, name: str) -> None:
        """Keep `content` with the run as the file `name`, which may lie in a folder: config/params.json."""
        place = self._journal.new_place()
        folder, _, leaf = name.rpartition("/")
        with storage_errors(place):
            (place / leaf).write_text(content, encoding="utf-8")
        self._append({"op": "files", "place": place.name, "folder": folder})

    def image(self, key: str, step: int, path: Path) -> None:
        """Add a PNG file to the series `key` of MLflow's image grid; what was added before for a step stays."""
        if (key, step) in self._images:
            return
        check_name("image", key)
        place = self._journal.new_place()
        name = f"{key.replace('/', '~')}+step+{step}+timestamp+{now_ms()}+{uuid.uuid4()}.png"
        with storage_errors(place):
            shutil.copyfile(path, place / name)
        self._append({"op": "image", "place": place.name, "key": key, "step": step})
        self._images.add((key, step))

    def trace(self, trace: Trace) -> None:
        """Show a question to a model and its answer among the run's traces; again under the same key: the same one."""
        place = self._journal.new_place()
        with storage_errors(place):
            (place / TRACE).write_text(json.dumps(asdict(trace)), encoding="utf-8")
        self._append({"op": "trace", "place": place.name})

    def input(
        self,
        name: str,
        source: str,
        digest: str,
        *,
        context: str = "training",
        profile: Mapping[str, Any] | None = None,
    ) -> None:
        """Record a data set the run read, by its name.

        Args:
            source: where it lies.
            digest: of its content; MLflow keeps 36 characters.
            context: training, validation or testing.
            profile: what to know of it: number of images, classes ...
        """
        self._append(
            {
                "op": "input",
                "name": name,
                "digest": digest[:_MAX_DIGEST],
                "source": json.dumps({"uri": source}),
                "context": context,
                "profile": json.dumps(profile or {}, default=str),
            }
        )

    def unless_away(self, work: Callable[[], R]) -> R | None:
        """Return what `work` returns, which asks MLflow; None where MLflow is away: `postponed` says why then.

        Raises:
            TrackingError: MLflow refuses it for good, or else as `work`.
        """
        try:
            return work()
        except TrackingError as exc:
            if not mlflow_api.is_away(exc):
                raise
            self.postponed = str(exc)
            return None

    def leave_open(self) -> None:
        """Let the run go on after the `with` block, unless the block fails: another step opens it again."""
        self._more_follows = True

    def flush(self) -> None:
        """Return when MLflow has all there is so far.

        Raises:
            TrackingError: it does not take it, or does not answer for long.
        """
        if not self._uploader.flush():
            raise not_sent(self._uploader, self._journal)

    def end(self, status: Status) -> None:
        """Send the rest and set the run's status; called by the end of the `with` block.

        What MLflow does not take because it is away stays in the journal; `unsent` says who sends it.

        Raises:
            TrackingError: MLflow will never take it.
        """
        with self._held:
            self._append({"op": "end", "status": status, "time": now_ms()})
            self._over = True
            patience = _in_a_hurry() if status == "KILLED" else {"patience_s": _END_PATIENCE_S}
            if self._uploader.finish(**patience):
                shutil.rmtree(self._journal.outbox, ignore_errors=True)
                return
            unsent = not_sent(self._uploader, self._journal)
            if self._uploader.is_hopeless:
                raise unsent
            self.unsent = str(unsent)

    def _pause(self, patience: Mapping[str, float]) -> None:
        """Send what can be sent and let go of the folder; who opens it next goes on, and sends the rest."""
        with self._held:
            self._over = True
            if not self._uploader.finish(**patience):
                logger.warning("%s", not_sent(self._uploader, self._journal))

    def _begin(self, params: Mapping[str, Any], flat: Mapping[str, str], tags: Mapping[str, str]) -> None:
        self._append({"op": "begin", "time": now_ms()})
        if not any(entry["op"] == "params" for entry, _ in self._journal.entries()):
            self.text(redacted(json.dumps(params, indent=2, default=str)) + "\n", "config/params.json")
            self._append({"op": "params", "values": {key: param_value(value) for key, value in flat.items()}})
        values = {**standard_tags(), **tags}
        self._append({"op": "tags", "values": {key: tag_value(value) for key, value in values.items()}})
        self._connect()

    def _learn(self) -> None:
        """Count as logged what another host has sent after the files that this one goes on from: none stands twice."""
        run_id = self._uploader.card.run_id
        if hosts_share_a_disk() or not self._goes_on or run_id is None:
            return
        try:
            known = mlflow_api.sent_metrics(mlflow_api.client(self._uploader.uri), run_id)
        except mlflow_api.TRANSIENT as exc:
            logger.warning("metrics that another host has sent may stand twice in MLflow (%s)", first_line(exc))
            return
        for key, values in known.items():
            if fresh := values.keys() - self._steps[key]:
                self._steps[key] |= fresh
                self._latest[key] = values[max(values)]

    def _connect(self) -> None:
        self._uploader.start(_CONNECT_S if self._uploader.uri.startswith("http") else _CONNECT_FILE_S)

    def _append(self, entry: Mapping[str, Any]) -> None:
        if self._over:
            raise TrackingError(f"the run in {self.folder} has ended, found more to log: {entry['op']}")
        self._journal.append(entry)
        self._uploader.wake()


def _tags(entry: Mapping[str, Any]) -> Mapping[str, str]:
    return entry["values"] if entry["op"] == "tags" else {}


def _journal(folder: Path, stack: ExitStack) -> Journal:
    """Return the journal of a folder, closed with the stack."""
    journal = Journal(folder)
    stack.callback(journal.close)
    return journal


def _in_a_hurry() -> dict[str, float]:
    return {"patience_s": _KILLED_PATIENCE_S, "longest_s": _KILLED_PATIENCE_S}
