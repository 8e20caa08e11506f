"""Builds the models, and loads their weights from files."""

import logging
import math
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.vision_transformer import interpolate_embeddings

from tasks.base.errors import WeightsError
from tasks.base.outside import WEIGHTS_BYTES, check_packed, open_file
from tasks.classification.networks import build, head_name

logger = logging.getLogger(__name__)


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


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file of weights: a plain state dict, RFUAV's, or one of our checkpoints.

    Raises:
        WeightsError: no such file; not a file of weights; or one that carries code, which is never run.
    """
    if not path.exists():
        raise WeightsError(f"found no file of weights at {path}")
    file = open_file(path, WeightsError, WEIGHTS_BYTES)
    try:
        with file:
            if zipfile.is_zipfile(file):
                check_packed(file, path, WeightsError)  # torch.save does not compress
            file.seek(0)
            content = torch.load(file, map_location="cpu", weights_only=True)
    except WeightsError:
        raise
    except Exception as exc:  # torch raises UnpicklingError, RuntimeError, EOFError ... for what is not weights
        raise WeightsError(
            f"cannot read weights from {path}: need a state dict saved by torch.save, without pickled code "
            f"({_first_line(exc)})"
        ) from exc
    for key in ("trainer", "state_dict", "model_state_dict", "model", "weights"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not all(isinstance(v, Tensor) for v in content.values()):
        raise WeightsError(f"found a {type(content).__name__} in {path}, need a mapping of names to tensors")
    return {_bare(name): tensor for name, tensor in content.items()}


def _first_line(exc: BaseException) -> str:
    text = str(exc).strip().splitlines()
    return text[0][:160] if text else type(exc).__name__


def _bare(name: str) -> str:
    # DataParallel, torch.compile and RFUAV's wrapper each add a prefix to the names.
    for prefix in ("module.", "_orig_mod.", "model."):
        name = name.removeprefix(prefix)
    return name


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


def pretrained_state(arch: str) -> tuple[dict[str, Tensor], str]:
    """Return torchvision's ImageNet weights from torch's cache or the network, and their file name.

    Raises:
        WeightsError: neither has them; the message names the file and where to put it.
    """
    url = str(torchvision.models.get_model_weights(arch).DEFAULT.url)
    name = url.rsplit("/", 1)[1]
    path = Path(torch.hub.get_dir()) / "checkpoints" / name
    if not path.is_file():
        logger.info("fetches the pretrained weights %s", url)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # Not load_state_dict_from_url, which prints to stdout. The name ends with the file's SHA-256.
            digest = name.rpartition("-")[2].removesuffix(".pth")
            torch.hub.download_url_to_file(url, str(path), digest, progress=False)
        except (OSError, RuntimeError) as exc:  # URLError is an OSError; a broken download: RuntimeError
            raise WeightsError(
                f"pretrained weights of {arch} are not here and could not be fetched ({_first_line(exc)}): "
                f"put {name} into {path.parent}, or set pretrained=false, or weight_path to a file"
            ) from exc
    return read_state_dict(path), name
