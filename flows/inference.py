"""Predictions on images, videos and radio recordings with a trained model."""

from pathlib import Path
from typing import Any

from prefect import flow
from prefect.runtime import deployment

from flows.stages import failure_of, run_queued
from gpu_pools.placement.queues import device_queue
from gpu_pools.slots.local_slot import on_device
from tasks.base.errors import TrainyardError
from tasks.images.params import PrepareParams
from tasks.inference import steps
from tasks.inference.params import DetectParams, PredictParams, PredictTrackParams, Sources
from tasks.signals.params import SpectrogramParams


@flow(name="predict", flow_run_name=steps.name_prediction)
def predict(
    data: Path,
    predict: PredictParams = PredictParams(),
    prepare: PrepareParams = PrepareParams(),
    spectrogram: SpectrogramParams = SpectrogramParams(),
    detect: DetectParams = DetectParams(),
    track: PredictTrackParams = PredictTrackParams(),
) -> str | None:
    """Name what is on every image of a source.

    Args:
        data: an image, a folder, a glob, a video, or a recording of interleaved I/Q.
        predict: which model answers, on what device.
        prepare: how large an image may be.
        spectrogram: how a recording becomes images.
        detect: a detector that proposes the regions to name; without one whole images are named.
        track: under which names it is found in MLflow.

    Returns:
        The id of the MLflow run; None: MLflow was away all along.
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
) -> list[str | None]:
    """Name what is on the images of several sources, a run each; one that fails does not stop the others.

    Args:
        data: the sources.
        predict: which model answers, on what device; save_path gets a folder per source.
        prepare: how large an image may be.
        spectrogram: how a recording becomes images.
        detect: a detector that proposes the regions to name; without one whole images are named.
        track: under which names they are found in MLflow.

    Returns:
        The ids of the MLflow runs, in the order of the sources.
    """
    shared = {"prepare": prepare, "spectrogram": spectrogram, "detect": detect, "track": track}
    requests = [{"data": source, "predict": own, **shared} for source, own in steps.with_folders(data, predict, detect)]
    return _here(requests) if deployment.id is None else _queued(requests)


def _here(requests: list[dict[str, Any]]) -> list[str | None]:
    """Run the requests one after the other in this process."""
    states = [predict(**request, return_state=True) for request in requests]
    faults = [
        f"{request['data']}: {state.message}"
        for request, state in zip(requests, states, strict=True)
        if not state.is_completed()
    ]
    _check(faults, len(requests))
    return [state.result() for state in states]


def _queued(requests: list[dict[str, Any]]) -> list[str | None]:
    """Hand all requests to their queue at once and wait for them."""
    ended = run_queued(predict, device_queue(requests[0]["predict"].device, "inference"), requests)
    faults = [
        f"{request['data']}: {fault}"
        for request, run in zip(requests, ended, strict=True)
        if (fault := failure_of(predict, run))
    ]
    _check(faults, len(requests))
    return [steps.prediction_run_id(str(run.id)) for run in ended]


def _check(faults: list[str], n_requests: int) -> None:
    """Tell all that failed, once all have ended.

    Raises:
        TrainyardError: at least one did.
    """
    if faults:
        raise TrainyardError(f"{len(faults)} of {n_requests} sources failed:\n" + "\n".join(faults))
