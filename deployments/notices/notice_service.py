"""The notices of a home: `python -m deployments.notices.notice_service`, a service of `yard up`.

It gives Prefect an event for each notice. The automations that belong to the recipients send it, and it sees from
their receipts what became of it. An event that Prefect lost, as when its server was killed, is given again.
"""

import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from uuid import NAMESPACE_URL, uuid5

from deployments.notices.channels import EVENTS, ensure_channels, label
from deployments.notices.messages import Message, compose
from deployments.notices.receipts import Receipt, forget, read_receipt
from deployments.notices.run_notices import headline, mlflow_links
from deployments.notices.run_watch import RunWatch
from deployments.runs.prefect_http import Ask, asking
from deployments.services.alone import turn_forever, wait_alone
from deployments.services.programs import NOTICES_SERVE
from deployments.services.service import ServiceError
from gpu_pools.periodic import Periodic
from gpu_pools.sharing.notice_settings import NoticeSettings
from gpu_pools.sharing.notices import (
    Notice,
    folder,
    leave,
    read_waiting,
    recipients,
    told_file,
    waiting_file,
)
from gpu_pools.sharing.settings import YardSettings, read_settings
from tasks.base.errors import TrainyardError
from tasks.base.workspace import storage_errors, write_json

POLL_S = 2.0
PAUSES_S = (20.0, 120.0, 600.0, 3600.0)
"""So long after an event that came to nothing it is given again; after the last one the notice is given up."""

_CHANNELS_EVERY_S = 600.0
_PRUNE_EVERY_S = 3600.0
_KEPT_S = 14 * 86_400.0  # what was told; so long nothing is told twice
_NOT_TAKEN = "Prefect did not act on it: is its automation paused, on Prefect's page Automations?"
_RUN_EVENTS = frozenset({"started", "finished", "failed", "refused", "stopping-soon", "idle"})


class NoticeService:
    """Call `turn` every two seconds.

    Args:
        call: asks Prefect's API.
        clock: Unix seconds.
    """

    def __init__(self, call: Ask, clock: Callable[[], float] = time.time) -> None:
        self._call, self._clock = call, clock
        self._watch = RunWatch(clock)
        self._given: dict[str, tuple[int, float]] = {}  # notice -> (events given, when the next one is due)
        self._channels: tuple[NoticeSettings | None, float] = (None, float("-inf"))
        self._prune = Periodic(prune, _PRUNE_EVERY_S, clock)

    def turn(self) -> None:
        """Leave what runs have done, and bring on what is to be told.

        Raises:
            ServiceError: the server does not answer.
            ConfigError: the settings are wrong.
            StorageError: the disk is full.
        """
        settings = read_settings()
        ready = self._has_channels(settings.notices)
        if not settings.notices.to:
            return
        for notice in self._watch.look(self._call, settings):
            leave(notice, settings)
        self._watch.keep()
        if ready:
            for notice in read_waiting():
                self._advance(notice, settings)
        self._prune()

    def _has_channels(self, settings: NoticeSettings) -> bool:
        known, at = self._channels
        if settings != known or self._clock() - at > _CHANNELS_EVERY_S:
            if not ensure_channels(self._call, settings):
                return False
            self._channels = (settings, self._clock())
        return True

    def _advance(self, notice: Notice, settings: YardSettings) -> None:
        """Give Prefect the event of a notice where it is due, or note what became of it."""
        receipts = {name: read_receipt(notice.id, name) for name in recipients(notice, settings)}
        unsent = [name for name, receipt in receipts.items() if receipt is None or not receipt.sent]
        n_given, due = self._given.get(notice.id, (0, 0.0))
        if not unsent or (n_given > len(PAUSES_S) and self._clock() >= due):
            self._close(notice, receipts)
        elif self._clock() >= due:
            self._give(notice, settings.notices, unsent, n_given)
            pause = PAUSES_S[min(n_given, len(PAUSES_S) - 1)]
            self._given[notice.id] = (n_given + 1, self._clock() + pause)

    def _give(self, notice: Notice, settings: NoticeSettings, names: Sequence[str], n_given: int) -> None:
        message = compose(notice, *self._of_run(notice, settings))
        self._call("POST", "/events", [event_of(message, names, n_given)])

    def _of_run(self, notice: Notice, settings: NoticeSettings) -> tuple[dict[str, str], dict[str, str]]:
        """Return figures and links of the run that a notice is about; none where it is about none."""
        if not notice.run_id:
            return {}, {}
        of_parent = {"flow_runs": {"parent_flow_run_id": {"any_": [notice.run_id]}}}
        ids = [notice.run_id, *(stage["id"] for stage in self._call("POST", "/flow_runs/filter", of_parent))]
        body = {"artifacts": {"flow_run_id": {"any_": ids}}, "sort": "UPDATED_DESC"}
        artifacts = self._call("POST", "/artifacts/filter", body)
        result = headline(artifacts) if notice.kind == "finished" else ""
        figures = {"run": notice.run_name, "owner": notice.owner, "device": notice.device, "result": result}
        page = settings.prefect_url or os.environ.get("PREFECT_UI_URL", "")
        links = {"Prefect": f"{page.rstrip('/')}/runs/flow-run/{notice.run_id}"}
        links |= {name: _elsewhere(url, settings.mlflow_url) for name, url in mlflow_links(artifacts).items()}
        return {name: value for name, value in figures.items() if value}, links

    def _close(self, notice: Notice, receipts: Mapping[str, Receipt | None]) -> None:
        """Write down what became of a notice; from then on it is not told again."""
        path = told_file(notice.id)
        with storage_errors(path):
            path.parent.mkdir(exist_ok=True, mode=0o700)
        ended = {name: asdict(receipt or Receipt(answer=_NOT_TAKEN)) for name, receipt in receipts.items()}
        write_json(path, {"notice": asdict(notice), "to": ended, "at": self._clock()})
        waiting_file(notice.id).unlink(missing_ok=True)
        forget(notice.id)
        self._given.pop(notice.id, None)
        for name, receipt in ended.items():
            if not receipt["sent"]:
                print(f"{name} was not told that {notice.text} {receipt['answer']}", flush=True)


def event_of(message: Message, names: Sequence[str], n_given: int) -> dict[str, object]:
    """Return the event that the automations of these recipients act on.

    Args:
        message: that they are to get, the payload.
        names: of the recipients.
        n_given: events of this notice before; one that is given again has another name, as people's own automations
            shall see each notice once.
    """
    area = "run." if message.kind in _RUN_EVENTS and message.run_id else ""
    run = {"prefect.resource.id": f"prefect.flow-run.{message.run_id}", "prefect.resource.role": "flow-run"}
    return {
        "id": str(uuid5(NAMESPACE_URL, f"{message.id}:{n_given}")),
        "occurred": message.at,
        "event": f"{EVENTS}{area}{message.kind}" if n_given == 0 else f"{EVENTS}again",
        "resource": {
            "prefect.resource.id": f"trainyard.notice.{message.id}",
            "prefect.resource.name": message.subject,
            "trainyard.owner": message.owner,
            **{label(name): "yes" for name in names},
        },
        "related": [{**run, "prefect.resource.name": message.run_name}] if message.run_id else [],
        "payload": message.as_json(),
    }


def _elsewhere(url: str, base: str) -> str:
    """Return an address of MLflow as people reach it."""
    return f"{base.rstrip('/')}/#{url.partition('#')[2]}" if base and "#" in url else url


def prune() -> None:
    """Remove what was told so long ago that nothing could tell it again."""
    before = time.time() - _KEPT_S
    for path in (folder() / "told").glob("*.json"):
        if path.stat().st_mtime < before:
            path.unlink(missing_ok=True)


def main() -> None:
    """Serve until stopped; of several that serve one home, one does and the others wait for it."""
    try:
        with storage_errors(folder()):
            folder().mkdir(parents=True, exist_ok=True, mode=0o700)
        print(f"{NOTICES_SERVE} {folder()}", flush=True)
        wait_alone(folder())
        turn_forever(NoticeService(_ask).turn, (ServiceError, TrainyardError), POLL_S)
    except TrainyardError as exc:
        sys.exit(f"error: {exc}")


def _ask(method: str, path: str, body: object) -> object:
    with asking(os.environ["PREFECT_API_URL"]) as call:  # a connection of its own: between two looks it is closed
        return call(method, path, body)


if __name__ == "__main__":
    main()
