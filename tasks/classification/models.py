"""Builds the models, and loads their weights from files."""

import math
from collections import OrderedDict
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torchvision.models.vision_transformer import interpolate_embeddings

from tasks.base.errors import WeightsError
from tasks.classification.networks import build, head_name


def build_model(arch: str, n_classes: int, image_size: int = 224) -> nn.Module:
    """Return a freshly initialised network with a head for `n_classes`; see `networks.build`.

    Args:
        arch: one of the names of `tasks.classification.params.Architecture`.
        n_classes: at least 2.
        image_size: pixels on a side; for ViT a multiple of its patch (16 or 32).

    Raises:
        WeightsError: a vision transformer cannot cut the size into patches.
    """
    if arch.startswith("vit") and image_size % (patch := _patch(arch)):
        raise WeightsError(f"image_size {image_size} does not fit {arch}: need a multiple of {patch}")
    return build(arch, n_classes, image_size)


def _patch(arch: str) -> int:
    return int(arch.rsplit("_", 1)[1])


def takes_one_image(arch: str, n_classes: int, image_size: int) -> bool:
    """Return whether the model can be trained on a batch of one image.

    Batch norm cannot where an image has shrunk to one pixel: it needs more than one value per channel.
    """
    with torch.random.fork_rng(devices=[]), torch.device("meta"):  # shapes only: neither memory nor arithmetic
        model = build_model(arch, n_classes, image_size).train()
        try:
            model(torch.zeros(1, 3, image_size, image_size))
        except ValueError:
            return False
    return True


def load_weights(model: nn.Module, arch: str, state: Mapping[str, Tensor], source: str) -> list[str]:
    """Copy `state` into `model`; a head of another size stays as initialised.

    Args:
        model: as `build_model` made it.
        state: name -> tensor.
        source: where the tensors come from, for the messages.

    Returns:
        Sentences on what was not taken over; empty when everything was.

    Raises:
        WeightsError: tensors outside the head are missing or have other shapes: another architecture.
    """
    own = model.state_dict()
    head = head_name(arch) + "."
    state = _fit_positions(state, own, arch)
    wrong = [
        f"{name} {tuple(state[name].shape) if name in state else 'missing'} (need {tuple(tensor.shape)})"
        for name, tensor in own.items()
        if not name.startswith(head)
        and not name.endswith("num_batches_tracked")
        and (name not in state or state[name].shape != tensor.shape)
    ]
    if wrong:
        raise WeightsError(
            f"weights from {source} do not fit {arch}: {len(wrong)} of {len(own)} tensors, first {wrong[0]}"
        )
    head_fits = all(name in state and state[name].shape == t.shape for name, t in own.items() if name.startswith(head))
    notes = []
    if not head_fits:
        found, need = head_classes(state, arch), _out_features(own, head)
        notes.append(
            f"head of {source} has {found if found else 'another shape'}"
            f"{' classes' if found else ''}, need {need}: the head starts new"
        )
    taken = {n: t for n, t in state.items() if n in own and (head_fits or not n.startswith(head))}
    model.load_state_dict({**own, **taken})
    return notes


def _fit_positions(state: Mapping[str, Tensor], own: Mapping[str, Tensor], arch: str) -> Mapping[str, Tensor]:
    """Stretch a vision transformer's position embedding to another image size, as torchvision does."""
    key = "encoder.pos_embedding"
    if key not in own or key not in state or state[key].shape == own[key].shape:
        return state
    patch = _patch(arch)
    size = math.isqrt(own[key].shape[1] - 1) * patch
    return dict(interpolate_embeddings(size, patch, OrderedDict(state)))


def _out_features(state: Mapping[str, Tensor], head: str) -> int | None:
    biases = [tensor for name, tensor in state.items() if name.startswith(head) and name.endswith("bias")]
    return len(biases[-1]) if biases else None


def head_classes(state: Mapping[str, Tensor], arch: str) -> int | None:
    """Return how many classes the head in `state` tells apart, or None when it has no such head."""
    return _out_features(state, head_name(arch) + ".")
