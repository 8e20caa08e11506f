"""Checks that a folder holds a vision-language model that can be served without running code from it."""

from importlib.util import find_spec
from pathlib import Path

from tasks.base.errors import ConfigError, WeightsError
from tasks.base.outside import MIB, read_json
from tasks.base.workspace import allowed_path

_EXTRA = ("transformers", "accelerate", "openai", "prometheus_client")
_OLD_WEIGHTS = ("*.bin", "*.pt", "*.pth", "*.ckpt")


def check_extra() -> None:
    """Hold the environment against what serving needs.

    Raises:
        ConfigError: packages are missing.
    """
    if missing := [name for name in _EXTRA if find_spec(name) is None]:
        raise ConfigError(f"found no {', '.join(missing)}, need the extra vlm: pip install 'trainyard[vlm]'")


def check_model_folder(folder: Path) -> tuple[Path, str]:
    """Return the folder, resolved, and the type of the model in it, such as qwen2_5_vl.

    Raises:
        ConfigError: there is no such folder, or it may not be used.
        WeightsError: it is no model, or its weights are no safetensors.
    """
    resolved = allowed_path(folder)
    if not resolved.is_dir():
        raise ConfigError(f"found no folder {folder}, need one with a model: config.json and *.safetensors")
    if not (resolved / "config.json").is_file():
        raise WeightsError(f"found no config.json, need a model as transformers saves it: {resolved}")
    config = read_json(resolved / "config.json", WeightsError, 16 * MIB)
    kind = config.get("model_type") if isinstance(config, dict) else None
    if not isinstance(kind, str):
        raise WeightsError(f"found no model_type, need a model as transformers saves it: {resolved / 'config.json'}")
    if not any(resolved.glob("*.safetensors")):
        old = sorted({path.name for pattern in _OLD_WEIGHTS for path in resolved.glob(pattern)})
        found = f"found {old[0]}, which can run code when it is read" if old else "found no weights"
        raise WeightsError(f"{found}, need *.safetensors: {resolved}")
    return resolved, kind
