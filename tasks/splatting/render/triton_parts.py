"""Tells which of our Triton kernels a device can run."""

import importlib
import importlib.util
import logging
import subprocess
from functools import cache
from types import ModuleType

import torch

logger = logging.getLogger(__name__)

LAUNCH = {"enable_fp_fusion": True}
"""Given to every kernel: a product and a sum are one instruction, as measured. Unasked, 3.9 warns and 3.10 has two."""


def triton_part(name: str, device: torch.device) -> ModuleType | None:
    """Return a module of the splats that is written in Triton; None where it cannot run on the device.

    Args:
        name: of the module, below `tasks.splatting`.
        device: of the tensors it is to work on.
    """
    if device.type != "cuda" or not _runs():
        return None
    return importlib.import_module(f"tasks.splatting.{name}")


def _errors() -> tuple[type[Exception], ...]:
    of_triton: type[Exception] = importlib.import_module("triton.errors").TritonError
    return (ImportError, RuntimeError, OSError, subprocess.SubprocessError, of_triton)


@cache
def _runs() -> bool:
    """Return whether Triton compiles and runs here; where it does not, say once why."""
    if importlib.util.find_spec("triton") is None:
        logger.warning("Triton is not installed: splats are fitted by single operations of torch, several times slower")
        return False
    try:
        parts = importlib.import_module("tasks.splatting.render.triton_colors")
        parts.activated(torch.zeros(2, 3, device="cuda"), torch.zeros(2, device="cuda"))
    except _errors() as exc:
        # No compiler, no headers (the compiler's exit code), a GPU that its assembler does not know.
        reason = str(exc).strip().split("\n")[0][:300]
        logger.warning(
            "Triton does not run here (%s: %s): splats are fitted by single operations of torch, several times slower; "
            "it needs gcc and Python's headers",
            type(exc).__name__,
            reason,
        )
        return False
    return True
