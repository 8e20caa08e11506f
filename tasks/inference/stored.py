"""Fetches models from MLflow by run, by version, or by alias."""

from pathlib import Path

from tasks.base.errors import ConfigError, WeightsError
from tasks.base.workspace import allowed_path
from tasks.classification.grading.promotion import CONFIG, WEIGHTS
from tasks.inference.params import PredictParams
from tasks.inference.weights import CONFIG as WEIGHTS_CONFIG
from tasks.inference.weights import DETECTOR, INDEX_FILES, ModelFiles, configured, from_file, of_index, read_config
from tasks.tracking import addresses, registry
from tasks.tracking.addresses import FoundModel, is_address

_ADVICE = "train one (`yard run classification`)"
INDEX_ARTIFACTS = [f"index/{name}" for name in INDEX_FILES]
"""Where the run of an index keeps it, below its artifacts."""


def find_model(params: PredictParams, folder: Path) -> ModelFiles:
    """Return the model that `params.weights` names.

    Args:
        params: which one, and what is known of it.
        folder: an existing one of the run's own, for what comes from MLflow.

    Raises:
        WeightsError: there is no such file, run or model; for a registered model the message says what to train.
        ConfigError: the address means nothing, architecture or classes are not known, or a file lies outside the
            allowed roots.
        TrackingError: MLflow does not answer.
    """
    if not is_address(params.weights):
        return from_file(allowed_path(Path(params.weights)), params)
    found = addresses.find_model(params.weights, "predict.weights", _ADVICE)
    return _of_run(found, params, folder)


def find_detector(address: str, folder: Path) -> ModelFiles | Path:
    """Return the detector that an address names: one of parts, or a file with the state dict of torchvision's SSDlite.

    Args:
        address: models:/NAME@ALIAS, models:/NAME/NUMBER, runs:/ID or a file.
        folder: an existing one of the run's own.

    Raises:
        ConfigError, WeightsError, TrackingError: as `find_model`; ConfigError also where the model is no detector.
    """
    if not is_address(address):
        path = allowed_path(Path(address))
        beside = path.with_name(WEIGHTS_CONFIG)
        if not beside.exists() or read_config(beside).get("kind") != DETECTOR:
            return path
    own = folder / "detector"
    own.mkdir()
    files = find_model(PredictParams(weights=address), own)
    if files.kind != DETECTOR:
        raise ConfigError(f"found a {files.kind} at detect.weights={address}, need a detector")
    return files


def _of_run(found: FoundModel, params: PredictParams, folder: Path) -> ModelFiles:
    run_id, version = found.run_id, None if found.version is None else str(found.version)
    if run_id and registry.why_lost(run_id, INDEX_ARTIFACTS) is None:
        paths = registry.fetch(run_id, INDEX_ARTIFACTS, folder)
        return of_index(paths[0].parent, params, found.name, version)
    if lost := registry.why_lost(run_id, [WEIGHTS, CONFIG]):
        raise WeightsError(f"the weights of {found.name} cannot be had: {lost}")
    assert run_id is not None, "a version without a run has lost its files"
    weights, config = registry.fetch(run_id, [WEIGHTS, CONFIG], folder)
    return ModelFiles(weights, configured(read_config(config), params, found.name), found.name, version)
