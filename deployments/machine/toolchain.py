"""Finds the compilers of CUDA kernels, and says how to install those that are missing."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from tasks.base.errors import ConfigError

_RELEASE = re.compile(r"release (\d+\.\d+)")
_TORCH_CUDA = re.compile(r"^cuda\b[^=]*=\s*['\"]([\d.]+)['\"]", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Toolkit:
    """An nvcc with the headers it needs.

    Args:
        home: folder with bin/nvcc and include/cuda_runtime.h.
        version: of CUDA, such as 13.0.
    """

    home: Path
    version: str

    @property
    def major(self) -> str:
        """Return the part of the version that must be torch's."""
        return self.version.partition(".")[0]

    @property
    def from_pip(self) -> bool:
        """Return whether it is made of pip's packages, which lack what the linker looks for."""
        return self.home.parent.name == "nvidia"


@dataclass(frozen=True, slots=True)
class Tools:
    """Everything a build needs; None: not on this machine.

    Args:
        torch_cuda: version of CUDA that torch is built with; None: torch is for the CPU only, or not there.
        toolkits: every nvcc found, the one asked for by CUDA_HOME first.
        compiler: of C++.
        ninja: it runs the compilers.
        python_header: Python.h of this interpreter.
    """

    torch_cuda: str | None
    toolkits: tuple[Toolkit, ...]
    compiler: Path | None
    ninja: Path | None
    python_header: Path | None

    @property
    def toolkit(self) -> Toolkit | None:
        """Return the first nvcc that fits torch, whose own check wants the same major version."""
        major = (self.torch_cuda or "").partition(".")[0]
        return next((found for found in self.toolkits if found.major == major), None)


def package_dir(name: str) -> Path | None:
    """Return the folder of a package, which is not imported; None where there is none."""
    spec = find_spec(name)
    return Path(spec.origin).parent if spec and spec.origin else None


def torch_cuda() -> str | None:
    """Return the version of CUDA that torch is built with, read from its file: importing it takes seconds."""
    folder = package_dir("torch")
    if folder is None or not (folder / "version.py").is_file():
        return None
    found = _TORCH_CUDA.search((folder / "version.py").read_text())
    return found[1] if found else None


def find_tools(environ: Mapping[str, str] = os.environ) -> Tools:
    """Return what there is of the tools, nothing compiled, nothing imported."""
    cuda, path = torch_cuda(), environ.get("PATH", os.defpath)
    beside = os.pathsep.join([path, str(Path(sys.executable).parent)])  # pip's ninja, the environment not activated
    header = Path(sysconfig.get_path("include")) / "Python.h"
    return Tools(
        cuda,
        tuple(_toolkits(cuda, environ)),
        _program(environ.get("CXX") or "c++", path),  # as torch chooses it
        _program("ninja", beside),
        header if header.is_file() else None,
    )


def _program(name: str, path: str) -> Path | None:
    found = shutil.which(name, path=path)
    return Path(found) if found else None


def _toolkits(cuda: str | None, environ: Mapping[str, str]) -> Iterator[Toolkit]:
    homes = [Path(environ[name]) for name in ("CUDA_HOME", "CUDA_PATH") if environ.get(name)]
    if nvcc := _program("nvcc", environ.get("PATH", os.defpath)):
        homes.append(nvcc.resolve().parent.parent)
    homes += [Path("/usr/local/cuda"), *sorted(Path("/usr/local").glob("cuda-*"), reverse=True)]
    if cuda and (spec := find_spec("nvidia")) and spec.submodule_search_locations:
        homes += [Path(place) / f"cu{cuda.partition('.')[0]}" for place in spec.submodule_search_locations]
    seen = set()
    for home in homes:
        # Beside a script that only calls nvcc there are no headers, and torch would look for them there.
        if (home / "include" / "cuda_runtime.h").is_file() and (real := home.resolve()) not in seen:
            seen.add(real)
            if version := nvcc_version(home / "bin" / "nvcc"):
                yield Toolkit(home, version)


def nvcc_version(nvcc: Path) -> str | None:
    """Return the version of CUDA of an nvcc, None where it does not run."""
    try:
        said = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=False, timeout=20).stdout
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found[1] if (found := _RELEASE.search(said)) else None


def how_to_get_nvcc(tools: Tools) -> str:
    """Return what to do where no nvcc fits."""
    if tools.torch_cuda is None:
        return "install a torch that is built with CUDA"
    wanted = ".".join(tools.torch_cuda.split(".")[:2])
    package = "nvidia-cuda-nvcc"
    if int(wanted.partition(".")[0]) < 13:  # those were named by their version, and lie elsewhere
        return f"install NVIDIA's CUDA toolkit {wanted}, and set CUDA_HOME to its folder"
    return (
        f"`pip install '{package}=={wanted}.*'` into this environment, or install NVIDIA's CUDA toolkit {wanted} and "
        "set CUDA_HOME to its folder"
    )


def faults(tools: Tools) -> list[str]:
    """Return what is missing for a build, each with the way to get it; empty where all is there."""
    found = []
    if tools.toolkit is None:
        have = ", ".join(f"{kit.version} in {kit.home}" for kit in tools.toolkits) or "none"
        need = f"one of CUDA {tools.torch_cuda}" if tools.torch_cuda else "a torch with CUDA"
        found.append(f"nvcc: found {have}, need {need}, as torch is built with it: {how_to_get_nvcc(tools)}")
    if tools.compiler is None:
        found.append("g++: found none, need a compiler of C++: `apt-get install g++`, or name one in CXX")
    if tools.ninja is None:
        found.append("ninja: found none: `pip install ninja` into this environment")
    if tools.python_header is None:
        where = sysconfig.get_path("include")
        found.append(f"Python.h: found none in {where}: `apt-get install python3-dev` of this version")
    return found


def require(tools: Tools) -> tuple[Toolkit, Path]:
    """Return nvcc's toolkit and ninja, with all the rest at hand.

    Raises:
        ConfigError: something is missing; names all of it at once.
    """
    missing = faults(tools)
    if missing or tools.toolkit is None or tools.ninja is None:
        raise ConfigError("gsplat's kernels cannot be built here:\n" + "\n".join(missing))
    return tools.toolkit, tools.ninja
