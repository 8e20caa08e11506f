"""Lets a run's process work where hosts share no disk: it brings its files first, and sends what it made."""

import functools
import logging
import os
from collections.abc import Callable
from typing import Any

from prefect import Flow
from prefect.client.schemas.objects import FlowRun

from gpu_pools.process.run_setup import EXIT_SUPERSEDED
from tasks.base.errors import Interrupted, TakenOverError, TrainyardError
from tasks.store import places, sending
from tasks.store.arrivals import bring_needs, run_folder
from tasks.store.datasets import hold
from tasks.store.objects import Objects
from tasks.store.sending import Sending
from tasks.store.setting import hosts_share_a_disk

logger = logging.getLogger(__name__)

_BRING_PATIENCE_S = 300.0
_SEND_PATIENCE_S = 60.0  # a device is held meanwhile; the worker sends the rest


def with_files(flow: Flow[..., Any], flow_run: FlowRun) -> tuple[Flow[..., Any], FlowRun]:
    """Bring what a run needs, and return its flow and itself as they work on this host.

    Where all hosts share a disk, that is data sets of the store alone, and nothing is sent.

    Raises:
        ConfigError: a data set does not exist.
        TransferError: MLflow does not answer, or refuses.
        StorageError: something is missing or damaged in the store, or the disk refuses.
    """
    run_id, apart = str(flow_run.id), not hosts_share_a_disk()
    wanted = places.needs(flow_run.parameters, run_id if flow_run.run_count else None)
    if not apart:
        wanted = places.Needs(data=wanted.data)  # all the rest is on the disk of all
    data: dict[str, str] = {}
    if wanted:
        with Objects.of_environment(patience_s=_BRING_PATIENCE_S) as objects:
            arrived = bring_needs(objects, wanted)
        data = arrived.data
        for data_set in arrived.folders:
            hold(data_set)
    parameters = places.local(flow_run.parameters, data)
    named_here = flow_run.model_copy(update={"parameters": parameters})
    if not apart:
        return flow, named_here
    # Kept open to the end of the process: checkpoints are sent while the flow works.
    folder = str(parameters.get("run") or run_id)
    shared = run_folder(Objects.of_environment(patience_s=_SEND_PATIENCE_S), folder)
    return _sent(flow, Sending(shared, run_id, _leave)), named_here


def portable_parameters(parameters: dict[str, Any]) -> dict[str, Any]:
    """Return parameters of a stage as any host can read them."""
    return dict(places.recorded(parameters))


def bring_results(run_id: str) -> None:
    """Bring what the stages of a run have made on other hosts into its folder here.

    Raises:
        TransferError: MLflow does not answer, or refuses.
        StorageError: something is missing or damaged in the store, or the disk refuses.
    """
    if not hosts_share_a_disk():
        with Objects.of_environment(patience_s=_BRING_PATIENCE_S) as objects:
            run_folder(objects, run_id).bring()


def _sent(flow: Flow[..., Any], files: Sending) -> Flow[..., Any]:
    """Return the flow, which sends its files before it says how it ended."""
    work = flow.fn

    @functools.wraps(work)
    def working(*args: Any, **kwargs: Any) -> Any:
        _unless_away(files.claim, "other hosts do not know yet that this run works here")
        sending.begin(files)
        try:
            result = work(*args, **kwargs)
        except Interrupted:
            raise  # there is no time
        except BaseException:
            _unless_away(files.finish, "what this run has made is not sent yet")
            raise
        _unless_away(files.finish, "what this run has made is not sent yet, stages on other hosts wait for it")
        return result

    flow.fn = working
    return flow


def _unless_away(do: Callable[[], object], otherwise: str) -> None:
    try:
        do()
    except TakenOverError as exc:
        _leave(exc)
    except TrainyardError as exc:
        logger.warning("%s: %s", otherwise, exc)


def _leave(exc: TakenOverError) -> None:
    """End this process without a word: the run is another host's now."""
    logger.warning("%s", exc)
    logging.shutdown()
    os._exit(EXIT_SUPERSEDED)
