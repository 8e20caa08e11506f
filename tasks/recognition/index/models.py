"""Makes the embedder that the parameters ask for, and takes its first weights from files."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from tasks.base.errors import WeightsError
from tasks.base.outside import MIB, WEIGHTS_BYTES, check_file, read_json
from tasks.recognition.index.networks import Embedder, build, with_transformers
from tasks.recognition.params import IndexParams
from tasks.training.batches import MEAN, STD
from tasks.training.state_dicts import pretrained_state, read_state_dict

_HEADS = ("fc.", "classifier.")
"""Of torchvision's networks: what stands between features and classes, which an embedder does not have."""


def new_embedder(params: IndexParams) -> tuple[Embedder, dict[str, Any], list[str]]:
    """Return an embedder with its first weights, its configuration, and sentences on where the weights come from.

    Raises:
        WeightsError: the weights asked for cannot be had or do not fit.
    """
    if params.backbone_folder is not None:
        embedder, config = read_transformers(params.backbone_folder, quarter_turns=params.quarter_turns)
        return embedder, config, [f"takes the features of {params.backbone_folder}, nothing is trained"]
    config = {
        "backbone": params.backbone,
        "dimension": params.dimension if params.trains else None,
        "quarter_turns": params.quarter_turns,
        "mean": list(MEAN),
        "std": list(STD),
    }
    embedder = build(config)
    state, name = _first_weights(params)
    if state is None:
        return embedder, config, []
    load_backbone(embedder, state, name)
    return embedder, config, [f"starts from {name}" if params.trains else f"takes the features of {name}"]


def _first_weights(params: IndexParams) -> tuple[dict[str, Tensor] | None, str]:
    if params.weight_path is not None:
        return read_state_dict(params.weight_path), str(params.weight_path)
    return pretrained_state(params.backbone) if params.pretrained else (None, "")


def load_backbone(embedder: Embedder, state: Mapping[str, Tensor], source: str) -> None:
    """Copy the weights of a backbone, or of a whole embedder, into an embedder; heads of classes are left out.

    Args:
        embedder: as `build` made it.
        state: name -> tensor.
        source: where the tensors come from, for the message.

    Raises:
        WeightsError: tensors are missing or have other shapes: another architecture.
    """
    if any(name.startswith("backbone.") for name in state):
        state = {name.removeprefix("backbone."): value for name, value in state.items() if name.startswith("backbone.")}
    own = embedder.backbone.state_dict()
    given = {name: value for name, value in state.items() if name in own or not name.startswith(_HEADS)}
    wrong = [name for name, value in own.items() if name not in given or given[name].shape != value.shape]
    if extra := sorted(given.keys() - own.keys()) or wrong:
        raise WeightsError(
            f"weights from {source} do not fit the backbone: {len(wrong)} of {len(own)} tensors are missing or of "
            f"another shape, first {extra[0]}"
        )
    embedder.backbone.load_state_dict(given)


def read_transformers(folder: Path, *, quarter_turns: bool = False) -> tuple[Embedder, dict[str, Any]]:
    """Return an embedder that takes the features of a model in a folder of transformers, and its configuration.

    The weights are read from safetensors; neither code in the folder nor the network is used.

    Raises:
        WeightsError: the folder holds no such model.
    """
    from transformers import AutoModel  # noqa: PLC0415 - takes seconds to import

    described = read_json(folder / "config.json", WeightsError, MIB)
    check_file(folder / "model.safetensors", WeightsError, WEIGHTS_BYTES)
    pixels = _pixels(folder)
    try:
        model = AutoModel.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=False, use_safetensors=True
        ).float()
    except Exception as exc:  # transformers and safetensors raise a dozen kinds for what is no model
        reason = " ".join(str(exc).split())[:200]
        raise WeightsError(f"found no model of transformers that can be used in {folder}: {reason}") from exc
    values = {key: value for key, value in model.config.to_dict().items() if key != "auto_map"}
    config = {
        "backbone": "transformers",
        "dimension": None,
        "quarter_turns": quarter_turns,
        "transformers": values,
        **pixels,
    }
    try:
        return with_transformers(model, config), config
    except (AttributeError, TypeError) as exc:
        kind = described.get("model_type") if isinstance(described, dict) else None
        raise WeightsError(f"found a model of type {kind} in {folder}, need one that gives features of images") from exc


def _pixels(folder: Path) -> dict[str, list[float]]:
    """Return mean and deviation of the pixels that a model expects; those of ImageNet where it does not say."""
    path = folder / "preprocessor_config.json"
    found = read_json(path, WeightsError, MIB) if path.exists() else {}
    pixels = {}
    for key, name, usual in (("mean", "image_mean", MEAN), ("std", "image_std", STD)):
        value = found.get(name, usual) if isinstance(found, dict) else usual
        if (
            not isinstance(value, list | tuple)
            or len(value) != 3
            or not all(isinstance(each, float | int) for each in value)
        ):
            raise WeightsError(f"found {value!r} as {name}, need three numbers: {path}")
        pixels[key] = [float(each) for each in value]
    return pixels
