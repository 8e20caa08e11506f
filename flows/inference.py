"""Naming what is on pictures, in videos and in radio recordings with a trained model."""

from pathlib import Path
from typing import Any

from prefect import flow
from prefect.client.orchestration import get_client
from prefect.deployments import run_deployment
from prefect.runtime import deployment, flow_run

from flows.halves import _INHERITED, DEPLOYMENT, _wait
from gpu_pools.occupy import on_device
from gpu_pools.queues import device_queue
from tasks.classification.signal_params import SpectrogramParams
from tasks.errors import TrainyardError
from tasks.inference import steps
from tasks.inference.params import DetectParams, PredictParams, PredictTrackParams, PrepareParams, Sources

TIME_LIMIT = "300s"
"""Of one request that names none, as the service before had it."""


@flow(name="predict", flow_run_name=steps.name_prediction)
def predict(
    data: Path,
    predict: PredictParams = PredictParams(),
    prepare: PrepareParams = PrepareParams(),
    spectrogram: SpectrogramParams = SpectrogramParams(),
    detect: DetectParams = DetectParams(),
    track: PredictTrackParams = PredictTrackParams(),
) -> str:
    """Name what is on every picture of a source.

    Args:
        data: an image, a folder, a glob, a video, or a recording of interleaved float32 I/Q.
        predict: which model answers, on what device.
        prepare: how large a picture may be.
        spectrogram: how a recording becomes pictures.
        detect: a detector that proposes the regions to name; without one whole pictures are named.
        track: under which names it is found in MLflow.

    Returns:
        The id of the MLflow run.
    """
    with on_device(predict.device, "inference"):
        return steps.predict(data, predict, prepare, spectrogram, detect, track)


@flow(name="predict_many")
def predict_many(
    data: Sources,
    predict: PredictParams = PredictParams(),
    prepare: PrepareParams = PrepareParams(),
    spectrogram: SpectrogramParams = SpectrogramParams(),
    detect: DetectParams = DetectParams(),
    track: PredictTrackParams = PredictTrackParams(),
) -> list[str]:
    """Name what is on the pictures of several sources, a run each; one that fails does not stop the others.

    Args:
        data: the sources.
        predict: which model answers, on what device.
        prepare: how large a picture may be.
        spectrogram: how a recording becomes pictures.
        detect: a detector that proposes the regions to name; without one whole pictures are named.
        track: under which names they are found in MLflow.

    Returns:
        The ids of the MLflow runs, in the order of the sources.
    """
    shared = {"predict": predict, "prepare": prepare, "spectrogram": spectrogram, "detect": detect, "track": track}
    requests = [{"data": source, **shared} for source in data]
    return _here(requests) if deployment.id is None else _queued(requests)


def _here(requests: list[dict[str, Any]]) -> list[str]:
    """Run the requests one after the other in this process."""
    states = [predict(**request, return_state=True) for request in requests]
    faults = [
        f"{request['data']}: {state.message}"
        for request, state in zip(requests, states, strict=True)
        if not state.is_completed()
    ]
    _check(faults, len(requests))
    return [str(state.result()) for state in states]


def _queued(requests: list[dict[str, Any]]) -> list[str]:
    """Hand every request to its queue, all at once, and wait for them; started again, it finds those it had started."""
    parent = str(flow_run.id)
    with get_client(sync_client=True) as client:
        variables = client.read_flow_run(flow_run.id).job_variables or {}
        given = {name: variables[name] for name in _INHERITED if name in variables}
        started: list[Any] = [
            run_deployment(
                f"{predict.name}/{DEPLOYMENT}",
                parameters=predict.serialize_parameters(request),
                work_queue_name=device_queue(request["predict"].device, "inference").name,
                idempotency_key=f"{parent}-{predict.name}-{number}",
                job_variables={"time_limit": TIME_LIMIT, **given},
                timeout=0,
            )
            for number, request in enumerate(requests)
        ]
        ended = [_wait(client, run) for run in started]
    faults = [
        f"{request['data']} ({run.name}) is {run.state.name}: {run.state.message}"
        for request, run in zip(requests, ended, strict=True)
        if run.state is not None and not run.state.is_completed()
    ]
    _check(faults, len(requests))
    return [steps.mlflow_run(str(run.id)) for run in ended]


def _check(faults: list[str], n_requests: int) -> None:
    """Tell all that failed, once all have ended.

    Raises:
        TrainyardError: at least one did.
    """
    if faults:
        raise TrainyardError(f"{len(faults)} of {n_requests} sources failed:\n" + "\n".join(faults))
