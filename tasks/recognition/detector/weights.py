"""Builds detectors as parameters ask for them, with weights from files."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from tasks.base.errors import ConfigError, WeightsError
from tasks.base.outside import PARAMETER_BYTES, check_file, read_json
from tasks.recognition.detector.networks import TRANSFORMERS, Detector, build
from tasks.recognition.params import DetectorParams
from tasks.training.batches import MEAN, STD
from tasks.training.state_dicts import read_state_dict

_PLACES = ("", "network.", "network.backbone.", "network.backbone.body.")
"""Where in a detector the tensors of a file may belong: one of ours, of torchvision's, and those of a backbone."""
_ENOUGH = 0.5  # share of a backbone's tensors that a file must have to count as its weights


def model_config(params: DetectorParams, classes: Sequence[str]) -> dict[str, Any]:
    """Return what is needed to build a detector and use it, as plain values.

    Raises:
        ConfigError: the folder of a model of transformers is none.
    """
    config = {"network": params.network, "classes": list(classes), "image_size": params.image_size}
    if params.network not in TRANSFORMERS:
        return config
    return {**config, **_transformers_config(params.network, params.network_folder)}


def _transformers_config(name: str, folder: Path | None) -> dict[str, Any]:
    if folder is None:
        return {"transformers": {"model_type": name}, "mean": list(MEAN), "std": list(STD)}
    content = read_json(folder / "config.json", ConfigError, PARAMETER_BYTES)
    found = content.get("model_type") if isinstance(content, dict) else None
    if found != name:
        raise ConfigError(f"found the model_type {found!r}, need {name}: {folder / 'config.json'}")
    content.pop("id2label", None), content.pop("label2id", None)  # of the classes it was trained on
    path = folder / "preprocessor_config.json"
    said = read_json(path, ConfigError, PARAMETER_BYTES) if path.is_file() else {}
    normal = said.get("do_normalize", True)  # D-FINE's take pixels as they are
    mean, std = (said.get("image_mean", list(MEAN)), said.get("image_std", list(STD))) if normal else ([0] * 3, [1] * 3)
    return {"transformers": content, "mean": mean, "std": std}


def start_weights(model: Detector, params: DetectorParams) -> list[str]:
    """Give a fresh detector the weights that the parameters name; return sentences on what was taken.

    Raises:
        WeightsError: a file cannot be read, or does not fit.
    """
    notes = []
    if params.network_folder is not None:
        notes += load_weights(model, _safetensors(params.network_folder), str(params.network_folder))
    if params.weight_path is not None:
        notes += load_weights(model, read_state_dict(params.weight_path), str(params.weight_path))
    return notes or ["starts from random weights"]


def _safetensors(folder: Path) -> dict[str, Tensor]:
    import safetensors.torch  # noqa: PLC0415 - comes with transformers, which an extra brings

    path = folder / "model.safetensors"
    check_file(path, WeightsError)
    try:
        return dict(safetensors.torch.load_file(path))
    except Exception as exc:  # its own errors have no common base
        raise WeightsError(f"is no file of safetensors ({exc}): {path}") from exc


def load_weights(model: Detector, state: Mapping[str, Tensor], source: str) -> list[str]:
    """Copy what fits of `state` into a detector: all of it, all but a head of other classes, or its backbone.

    Args:
        model: the detector.
        state: name -> tensor.
        source: where the tensors come from, for messages.

    Returns:
        A sentence on what was taken.

    Raises:
        WeightsError: less than half of the backbone fits.
    """
    own = model.state_dict()
    taken = max((_fitting(own, state, place) for place in _PLACES), key=len)
    backbone = [name for name in own if "backbone" in name and not name.endswith("num_batches_tracked")]
    if len(taken.keys() & set(backbone)) < _ENOUGH * len(backbone):
        taken = dict(_in_order({name: own[name] for name in backbone}, state))
    if len(taken) < _ENOUGH * len(backbone):
        raise WeightsError(
            f"found {len(taken)} tensors that fit the {len(backbone)} of the backbone, need at least half: weights of "
            f"another network in {source}"
        )
    model.load_state_dict({**own, **taken})
    left = sorted({_head(name) for name in own if name not in taken and not name.endswith("num_batches_tracked")})
    new = f"; new are {', '.join(left[:6])}{' ...' * (len(left) > 6)}" if left else ""
    return [f"starts from {source}: {len(taken)} of {len(own)} tensors{new}"]


def _fitting(own: Mapping[str, Tensor], state: Mapping[str, Tensor], place: str) -> dict[str, Tensor]:
    return {
        place + name: tensor
        for name, tensor in state.items()
        if place + name in own and own[place + name].shape == tensor.shape
    }


def _in_order(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of a backbone under its own names, as long as shapes agree one after the other.

    Detectors cut a classification network into stages, which gives its layers other names and keeps their order.
    """
    given = (tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked"))
    for (name, mine), theirs in zip(own.items(), given, strict=False):
        if mine.shape != theirs.shape:
            return
        yield name, theirs


def _head(name: str) -> str:
    return ".".join(name.removeprefix("network.").split(".")[:2])


def load_detector_weights(weights: Path, config: Mapping[str, Any]) -> Detector:
    """Return the detector of a configuration with the weights of a file of ours, ready to find.

    Raises:
        WeightsError: the file is none, or of another detector.
    """
    model = build(config)
    state = read_state_dict(weights)
    own = model.state_dict()
    wrong = [name for name, tensor in own.items() if name not in state or state[name].shape != tensor.shape]
    if wrong:
        network, n_classes = config["network"], len(config["classes"])
        raise WeightsError(
            f"weights do not fit {network} of {n_classes} parts: {len(wrong)} of {len(own)} tensors, first {wrong[0]}: "
            f"{weights}"
        )
    model.load_state_dict(state)
    return model.eval()
