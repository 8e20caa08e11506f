"""Loads the model that answers, and checks its weights against its configuration."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tasks.base.errors import ConfigError, WeightsError
from tasks.base.outside import PARAMETER_BYTES, WEIGHTS_BYTES, check_file, read_json
from tasks.classification.grading.answers import load_model
from tasks.classification.models import head_classes
from tasks.inference.params import PredictParams
from tasks.training.state_dicts import read_state_dict

CONFIG = "config.json"
DEFAULT_SIZE = 224
CLASSIFIER, DETECTOR, INDEX = "classifier", "detector", "index"
"""Kinds of models, by the key `kind` of their configuration; a configuration without it is a classifier's."""
INDEX_FILES = ("config.json", "weights.pt", "index.faiss", "views.csv")
"""Of an index of parts; as `tasks.recognition.index.index_folder` names them, which needs FAISS."""


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """Where the weights of a model lie, and what is known of it."""

    weights: Path
    config: Mapping[str, Any]  # model, classes, image_size; precision and temperature where training stored them
    name: str  # as people call it
    version: str | None  # of a registered model

    @property
    def kind(self) -> str:
        """Return what kind of model it is."""
        return str(self.config.get("kind", CLASSIFIER))


def from_file(weights: Path, params: PredictParams) -> ModelFiles:
    """Return the model of a file of weights, with the config.json beside it or with what the parameters say.

    Raises:
        WeightsError: there is no such file.
        ConfigError: architecture or classes are not known, or config.json is damaged.
    """
    if not weights.exists():
        raise WeightsError(f"found no file of weights at {weights}")
    if weights.is_dir():
        return of_index(weights, params, str(weights), None)
    check_file(weights, WeightsError, WEIGHTS_BYTES)
    beside = weights.with_name(CONFIG)
    config = configured(read_config(beside) if beside.exists() else {}, params, str(weights))
    return ModelFiles(weights, config, weights.name, None)


def of_index(folder: Path, params: PredictParams, name: str, version: str | None) -> ModelFiles:
    """Return the index of parts in a folder.

    Raises:
        WeightsError: a file is missing, or its configuration is none of an index.
        ConfigError: the parameters contradict it.
    """
    if missing := [file for file in INDEX_FILES if not (folder / file).is_file()]:
        lacks = f"as the folder of an index of parts it lacks {', '.join(missing)}"
        raise WeightsError(f"found a folder, need a plain file: {folder} ({lacks})")
    from tasks.recognition.index.index_folder import read_index_config

    found = read_index_config(folder / INDEX_FILES[0])
    config = {"kind": INDEX, "model": found["backbone"], "classes": found["parts"], "image_size": found["image_size"]}
    unnamed = params.model_copy(update={"model": None})  # one of classification's, which an index has not
    return ModelFiles(folder / INDEX_FILES[1], configured(config, unnamed, name), name, version)


def read_config(path: Path) -> dict[str, Any]:
    """Return what a training wrote down about its model.

    Raises:
        ConfigError: it is not JSON, or says nothing of a model and its classes.
    """
    config = read_json(path, ConfigError, PARAMETER_BYTES)
    if isinstance(config, dict) and "network" in config:  # as a detector of parts calls it
        config = {"model": config["network"], "kind": DETECTOR, **config}
    if not isinstance(config, dict) or not {"model", "classes", "image_size"} <= set(config):
        raise ConfigError(f"need model, classes and image_size in {path}")
    return config


def configured(config: Mapping[str, Any], params: PredictParams, where: str) -> dict[str, Any]:
    """Return the configuration of a model, with the parameters filling its gaps.

    Args:
        config: what the training wrote; empty for a plain state dict.
        params: model and class_names must agree with it; image_size may differ.
        where: the weights come from, for messages.

    Raises:
        ConfigError: the architecture or the classes are not known, or two places contradict each other.
    """
    full = dict(config)
    if params.model is not None and full.setdefault("model", params.model) != params.model:
        raise ConfigError(f"found model={params.model}, but {where} is a {full['model']}")
    if params.class_names is not None:
        names = list(params.class_names)
        if full.setdefault("classes", names) != names:
            raise ConfigError(f"found the class_names {names}, but {where} was trained on {full['classes']}")
    needed = {"model": "predict.model", "classes": "predict.class_names"}
    if missing := [name for key, name in needed.items() if key not in full]:
        raise ConfigError(f"found no {CONFIG} beside {where}: need {' and '.join(missing)}")
    if params.num_classes not in {None, len(full["classes"])}:
        raise ConfigError(f"found num_classes={params.num_classes} and {len(full['classes'])} classes for {where}")
    full["image_size"] = params.image_size or full.get("image_size") or DEFAULT_SIZE
    return full


def check_head(files: ModelFiles) -> None:
    """Hold the head of the weights against the classes, before a device is asked for.

    Raises:
        WeightsError: the file is not one of weights, carries code, or its head has another number of classes.
    """
    state = read_state_dict(files.weights)
    arch, need = str(files.config["model"]), len(files.config["classes"])
    found = head_classes(state, arch)
    if found is None:
        raise WeightsError(f"found no head of a {arch} in {files.weights}, need one for {need} classes")
    if found != need:
        raise WeightsError(f"the head in {files.weights} tells {found} classes apart, the configuration names {need}")


def load(files: ModelFiles, device: torch.device) -> nn.Module:
    """Return the model on its device, ready to answer.

    Raises:
        WeightsError: the weights do not fit the architecture or the classes.
    """
    check_head(files)
    return load_model(files.weights, files.config).to(device).eval()
