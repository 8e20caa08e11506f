"""Reads weights from files, from torch's cache, or from the network."""

import logging
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
import torchvision
from torch import Tensor

from tasks.base.errors import WeightsError
from tasks.base.outside import WEIGHTS_BYTES, check_packed, open_file

logger = logging.getLogger(__name__)


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
