"""Tells which of gsplat's CUDA kernels are built, and lets runs find them."""

import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from gpu_pools.placement.devices import Device
from tasks.base.workspace import home, read_step_info

EXTENSIONS = "TORCH_EXTENSIONS_DIR"
"""Names the folder in which torch looks for kernels before it builds them; a person who sets it is on his own."""

NO_SHORTCUTS = {"FAST_COMPILE": "0", "NO_FAST_MATH": "0", "USE_PRECOMPILED_HEADERS": "0"}
"""Switches of gsplat that change how kernels are compiled: other values in a run would have it build them anew."""


@dataclass(frozen=True, slots=True)
class Target:
    """What kernels are built for; with any other of the three they do not load, or do not run.

    Args:
        torch: version, as installed.
        gsplat: version, as installed.
        arch: compute capability of the GPU, such as 9.0.
    """

    torch: str
    gsplat: str
    arch: str

    @property
    def folder(self) -> Path:
        """Return where they lie; TORCH_EXTENSIONS_DIR for who builds and who loads them."""
        return kernels_dir() / f"torch{self.torch}-gsplat{self.gsplat}-sm{self.arch}"


def kernels_dir() -> Path:
    """Return the folder of all that is built here."""
    return home() / "kernels"


def installed(package: str) -> str | None:
    """Return the version of a package of this environment, None where it is not installed; nothing is imported."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def target_for(arch: str) -> Target | None:
    """Return what a GPU needs with the torch and gsplat of this environment; None where one of them is missing."""
    torch, gsplat = installed("torch"), installed("gsplat")
    return Target(torch, gsplat, arch) if torch and gsplat else None


def interpreter() -> str:
    """Return what Python a compiled module belongs to."""
    return sys.implementation.cache_tag or sys.version


def built(target: Target) -> dict[str, Any]:
    """Return what the kernels of a target were made with; empty where they are not there, not whole, or not ours.

    Keys: `library` (in the folder), `python`, `environment` (variables they were compiled under), `ninja` (program),
    `seconds`, `when`.
    """
    made = read_step_info(target.folder)
    if made.get("python") != interpreter() or not (target.folder / made["library"]).is_file():
        return {}
    return made


def own_kernels() -> Path | None:
    """Return the folder of the kernels that were built for the GPU of this process's slot; None: where torch looks."""
    folder = os.environ.get(EXTENSIONS)
    return Path(folder) if folder else None


def kernel_environment(device: Device | None, environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the variables under which a run on a GPU finds its kernels; none where they are not built.

    All that they were compiled under is among them: torch compares the commands, and builds anew where they differ,
    which takes longer than many a training.

    Args:
        device: the run's GPU; None: the CPU.
        environ: of the process that starts the run; TORCH_EXTENSIONS_DIR in it stays.
    """
    target = target_for(device.compute_capability) if device and not device.simulated else None
    if target is None or EXTENSIONS in environ or not (made := built(target)):
        return {}
    found = {EXTENSIONS: str(target.folder), **made["environment"]}
    path = environ.get("PATH", os.defpath)
    if shutil.which("ninja", path=path) is None:  # as with `.venv/bin/yard`, the environment not activated
        found["PATH"] = os.pathsep.join([path, str(Path(made["ninja"]).parent)])
    return found
