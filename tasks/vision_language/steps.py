"""The Prefect task that serves a model."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from socket import socket
from typing import TYPE_CHECKING, Any

from prefect import task
from prefect.runtime import flow_run

from gpu_pools.names import host_name
from gpu_pools.placement.queues import parse_duration
from gpu_pools.slots.give_way import Rivals
from tasks.base.errors import TrackingError, WeightsError
from tasks.base.workspace import allowed_path
from tasks.images.params import PrepareParams
from tasks.run.mlflow_run import hold_mlflow_run, slot_gpu
from tasks.run.prefect_page import show_link, show_markdown
from tasks.run.run_log import logger
from tasks.run.step_context import given_name, step_dir
from tasks.vision_language.address import ADDRESS, Address, write_address
from tasks.vision_language.engine_process import (
    check_engine,
    command_of,
    engine_running,
    free_port,
    model_name,
)
from tasks.vision_language.model_folder import check_extra, check_model_folder
from tasks.vision_language.params import GateParams, ServeParams

if TYPE_CHECKING:
    from tasks.tracking.tracker import Tracker
    from tasks.vision_language.engine_process import Running
    from tasks.vision_language.gate.app import Gate

STAGE, EXPERIMENT = "serving", "serving"


def name_server() -> str:
    """Return the name of a run: its own, else that of its model."""
    return given_name() or f"serve-{flow_run.parameters['model'].name}"


def check_request(model: Path, params: ServeParams) -> Path:
    """Return the folder of the model, before anything waits or starts for it.

    Raises:
        ConfigError: a package is missing, there is no such folder, or the engine may not be started.
        WeightsError: the folder holds no model that can be served.
    """
    check_extra()
    check_engine(params.engine, queued="TRAINYARD_LEASE" in os.environ)
    folder, kind = check_model_folder(model)
    if params.engine == "transformers":
        check_kind(kind, folder)
    return folder


def check_kind(kind: str, folder: Path) -> None:
    """Hold the type of a model against what transformers loads as one that is shown images and answers in text.

    Raises:
        WeightsError: it does not load it, at least not without code from the folder, which is never run.
    """
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

    if kind not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        raise WeightsError(f"found a model of type {kind!r}, need one that transformers shows images: {folder}")


@task(task_run_name="serve-{folder.name}")
def serve(folder: Path, params: ServeParams, gate: GateParams, prepare: PrepareParams) -> str:
    """Start the engine, serve the gate before it, and return why the server has ended.

    Args:
        folder: of the model, as `check_request` returns it.
        params: what answers, and for how long.
        gate: what the gate lets in.
        prepare: how large images may be.

    Raises:
        ConfigError: the address cannot be listened on, or the token not be used.
        EngineError: the engine does not start, or ends.
    """
    from tasks.vision_language.gate.server import open_socket

    run_folder, gpu = step_dir(None, STAGE), slot_gpu(params.device)
    listener, port, gate = open_socket(gate.host, gate.port), free_port(), _within(gate)
    command = command_of(params.engine, folder, port, on_gpu=gpu is not None and not gpu.simulated)
    free_mib = gpu.memory_free_mib if gpu else None
    recorded = {"model": folder.name, "folder": str(folder)} | {
        name: value.model_dump(mode="json", exclude={"token_file"})
        for name, value in (("serve", params), ("gate", gate), ("prepare", prepare))
    }
    with listener, _recorded(run_folder, recorded, params.device) as tracker:
        logger().info("starts the engine: %s", " ".join(command))
        with engine_running(command, port, run_folder / "engine.log", parse_duration(params.start_limit)) as engine:
            door = _gate(params.engine, folder, engine.url, gate, prepare, free_mib)
            why = _serve(door, listener, engine, params, run_folder, tracker, token_file=gate.token_file)
    logger().info("%s", why)
    return why


@contextmanager
def _recorded(folder: Path, parameters: dict[str, Any], device: str) -> Iterator["Tracker"]:
    """Hold the MLflow run of a server for the block; that MLflow is away at its end is no fault of the server."""
    served = False
    try:
        name = str(flow_run.name)
        with hold_mlflow_run(folder, parameters, device, EXPERIMENT, name, free=()) as (tracker, _):
            show_link("mlflow", tracker.url, "The figures of this server in MLflow")
            yield tracker
            served = True
    except TrackingError as exc:
        if not served:
            raise
        logger().warning("%s", exc)


def _serve(
    door: "Gate",
    listener: socket,
    engine: "Running",
    params: ServeParams,
    run_folder: Path,
    tracker: "Tracker",
    *,
    token_file: Path | None,
) -> str:
    from tasks.vision_language.record import Record
    from tasks.vision_language.serving import Around, Ends, serve_until

    texts = (params.lasts, params.idle, params.give_way)
    ends = Ends(*(None if text is None else parse_duration(text) for text in texts))

    def say(url: str) -> None:
        text = f"serves {door.model} at {url}, {door.slots.limit} requests at once"
        logger().info("%s", text)
        token = str(token_file) if token_file else None
        here = Address(str(flow_run.name), url, door.model, engine.process.pid, host_name(), token)
        write_address(run_folder, here)
        show_markdown("address", text, "Where the model answers")

    try:
        record = Record(door.counters, door.slots, tracker).write
        return serve_until(door, listener, engine, ends, Around(say, record, Rivals().first))
    finally:
        (run_folder / ADDRESS).unlink(missing_ok=True)


def _within(gate: GateParams) -> GateParams:
    """Return the parameters with their paths held against the allowed roots."""
    paths = {"token_file": gate.token_file, "image_folder": gate.image_folder}
    return gate.model_copy(update={name: path and allowed_path(path) for name, path in paths.items()})


def _gate(
    engine: str, folder: Path, url: str, gate: GateParams, prepare: PrepareParams, free_mib: int | None
) -> "Gate":
    from tasks.vision_language.gate.app import Gate
    from tasks.vision_language.gate.engine import Engine
    from tasks.vision_language.gate.request_slots import limit_for

    behind = Engine(url, model_name(engine, folder, url), asks_usage=engine != "transformers")
    return Gate(behind, folder.name, gate.limit or limit_for(free_mib), gate, prepare)
