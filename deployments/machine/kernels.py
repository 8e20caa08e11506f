"""Builds gsplat's CUDA kernels ahead, once for each version and kind of GPU."""

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from deployments.machine.toolchain import Toolkit, find_tools, package_dir, require
from deployments.services.service import log_file, tail
from gpu_pools.kernels import EXTENSIONS, NO_SHORTCUTS, Target, built, installed, interpreter, kernels_dir, target_for
from gpu_pools.placement.devices import Device
from tasks.base.errors import ConfigError, GpuError, StorageError, TrainyardError
from tasks.base.file_locks import file_lock
from tasks.base.progress import Steps
from tasks.base.project_files import install_command
from tasks.base.startup import module_command
from tasks.base.workspace import read_step_info, storage_errors, write_step_info

_ARCH = re.compile(r"\d{1,2}\.\d")
_STEP = re.compile(rb"\[(\d+)/(\d+)\] ")
_JOB_MIB = 3072
"""Memory of one compiler: gsplat's largest file takes most of it."""

_SHOWN = 240
"""Characters of a line of the log in a message."""

_END_S = 10
"""Until compilers that were asked to end are killed."""


class BuildError(TrainyardError):
    """Kernels do not compile, or do not load once compiled."""


@dataclass(frozen=True, slots=True)
class Built:
    """Kernels that are there.

    Args:
        target: what they are for.
        folder: they lie in.
        seconds: it took to build them.
        fresh: whether this call built them.
    """

    target: Target
    folder: Path
    seconds: float
    fresh: bool

    def as_json(self) -> dict[str, Any]:
        """Return it as `--json` shows it."""
        return {**asdict(self.target), "folder": str(self.folder), "seconds": self.seconds}


def wanted_archs(asked: str | None, devices: Sequence[Device]) -> list[str]:
    """Return the compute capabilities to build for, each once.

    Args:
        asked: one of them, or several separated by commas; None: those of the GPUs.
        devices: of this host.

    Raises:
        ConfigError: it is none.
        GpuError: none is asked for, and there is no GPU.
    """
    if asked is None:
        found = sorted({device.compute_capability for device in devices if not device.simulated})
        if not found:
            have = "simulated GPUs only" if devices else "no GPU"
            raise GpuError(
                f"found {have} on this host, need to know what to build for: --arch 9.0 (H100), 8.9 (RTX 40), "
                "8.6 (RTX 30), 8.0 (A100), 7.5 (T4)"
            )
        return found
    archs = list(dict.fromkeys(part.strip() for part in asked.split(",")))
    for arch in archs:
        if not _ARCH.fullmatch(arch):
            raise ConfigError(f"found --arch {arch!r}, need a compute capability such as 9.0")
    return archs


def needed_target(arch: str) -> Target:
    """Return what is to be built for a kind of GPU.

    Raises:
        ConfigError: gsplat is not installed, or came with kernels of its own.
    """
    target, package = target_for(arch), package_dir("gsplat")
    if target is None or package is None:
        missing = "torch" if installed("torch") is None else "gsplat"
        raise ConfigError(f"{missing} is not installed in {sys.prefix}: {install_command('gpu')}")
    if comes_built(package):
        raise ConfigError(f"gsplat in {package} came with its kernels: nothing is to be built")
    return target


def comes_built(package: Path) -> bool:
    """Return whether a gsplat has compiled kernels beside its sources, as its own wheels for some torches have."""
    return any(package.glob("csrc*.so"))


def default_jobs() -> int:
    """Return how many compilers fit this machine's cores and free memory."""
    fitting = psutil.virtual_memory().available // (_JOB_MIB * 2**20)
    return max(1, min(len(os.sched_getaffinity(0)), fitting))


def build(target: Target, n_jobs: int, environ: Mapping[str, str] = os.environ) -> Steps[Built]:
    """Build the kernels of a target unless they are there.

    The file that says so is written last: what a killed build leaves is removed by the next one.

    Args:
        target: what they are for.
        n_jobs: compilers at once.
        environ: settings of the compilers; PATH, CXX and CUDA_HOME choose them.

    Yields:
        (done, total) of the compilers' steps.

    Raises:
        ConfigError: a tool is missing, or another process builds the same.
        BuildError: a compiler fails; with the end of what it said.
        StorageError: the disk is full.
    """
    with file_lock(target.folder.with_name(f"{target.folder.name}.lock"), f"the build in {target.folder}"):
        if made := built(target):
            return Built(target, target.folder, made["seconds"], fresh=False)
        toolkit, ninja = require(find_tools(environ))
        with storage_errors(target.folder):
            shutil.rmtree(target.folder, ignore_errors=True)
            target.folder.mkdir(parents=True)
        settings = {"TORCH_CUDA_ARCH_LIST": target.arch, "CUDA_HOME": str(cuda_home(toolkit)), **NO_SHORTCUTS}
        settings |= {name: environ[name] for name in ("CXX", "CC") if environ.get(name)}
        path = os.pathsep.join([environ.get("PATH", os.defpath), str(ninja.parent)])
        own = {EXTENSIONS: str(target.folder), "MAX_JOBS": str(n_jobs), "VERBOSE": "1", "PATH": path}
        began = time.monotonic()
        yield from _compile(target, {**environ, **settings, **own})
        seconds = round(time.monotonic() - began, 1)
        made = {
            **asdict(target),
            "library": _library(target),
            "python": interpreter(),
            "environment": settings,
            "ninja": str(ninja),
            "cuda": toolkit.version,
            "seconds": seconds,
            "when": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        write_step_info(target.folder, made)
        return Built(target, target.folder, seconds, fresh=True)


def build_log(target: Target) -> Path:
    """Return the file of what the compilers say."""
    return log_file(f"kernels-{target.folder.name}")


def _compile(target: Target, env: Mapping[str, str]) -> Iterator[tuple[int, int]]:
    with storage_errors(build_log(target)):
        build_log(target).parent.mkdir(parents=True, exist_ok=True)
        log = build_log(target).open("wb", buffering=0)
    with log, _building(env) as process:
        assert process.stdout is not None
        for line in process.stdout:
            with storage_errors(build_log(target)):
                log.write(line)
            if step := _STEP.match(line):
                yield int(step[1]), int(step[2])
        code = process.wait()
    if code != 0:
        # Each command is longer than a screen; what is wrong stands between them.
        end = "\n".join(f"{line[:_SHOWN]}..." if len(line) > _SHOWN else line for line in _last_lines(target))
        if "No space left on device" in end:
            raise StorageError(f"disk full while building in {target.folder}: free room there")
        raise BuildError(
            f"gsplat's kernels for compute capability {target.arch} cannot be built (code {code}); the end of "
            f"{build_log(target)}:\n{end}"
        )


def _last_lines(target: Target) -> list[str]:
    return tail(build_log(target), 20).splitlines()


@contextmanager
def _building(env: Mapping[str, str]) -> Iterator["subprocess.Popen[bytes]"]:
    """Run the build for the block; at its end, however, nothing of it is left."""
    process = subprocess.Popen(
        module_command("deployments.machine.kernel_build"),
        stdin=subprocess.PIPE,  # its end is the build's
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**env, "PYTHONUNBUFFERED": "1"},
        start_new_session=True,  # only this process gets Ctrl-C, and ends all of the build
    )
    threading.Thread(target=_follow, args=(process,), daemon=True).start()
    try:
        yield process
    finally:
        _end(process)


def _follow(process: "subprocess.Popen[bytes]") -> None:
    """End the compilers of a build that was killed alone: they hold its output open, and it would be waited for."""
    process.wait()
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)


def _end(process: "subprocess.Popen[bytes]") -> None:
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()
    # Asked first: ninja then ends its compilers, which are in groups of their own.
    for wanted in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, wanted)
        except ProcessLookupError:
            break
        deadline = time.monotonic() + _END_S
        while time.monotonic() < deadline and _group_lives(process):
            time.sleep(0.05)
    process.wait()


def _group_lives(process: "subprocess.Popen[bytes]") -> bool:
    process.poll()  # a child that has ended and was not asked for still counts
    try:
        os.killpg(process.pid, 0)
    except ProcessLookupError:
        return False
    return True


def _library(target: Target) -> str:
    found = sorted(target.folder.glob("*/*.so"))
    if not found:
        raise BuildError(f"the build ended well and left no library in {target.folder}; its log: {build_log(target)}")
    return str(found[0].relative_to(target.folder))


def cuda_home(toolkit: Toolkit) -> Path:
    """Return the folder that torch is told as CUDA_HOME: the toolkit's, or, of pip's packages, one of links to them.

    pip's have no lib64 and no libcudart.so, which is what the linker is asked for.
    """
    if not toolkit.from_pip:
        return toolkit.home
    folder = kernels_dir() / f"cuda{toolkit.version}"
    links = {name: toolkit.home / name for name in ("bin", "include", "nvvm")}
    links |= {f"lib64/{path.name}": path for path in (toolkit.home / "lib").iterdir()}
    runtimes = sorted((toolkit.home / "lib").glob("libcudart.so.*"))
    if not runtimes:
        raise ConfigError(f"found no libcudart.so in {toolkit.home / 'lib'}: `pip install nvidia-cuda-runtime`")
    links["lib64/libcudart.so"] = runtimes[-1]
    with storage_errors(folder):
        (folder / "lib64").mkdir(parents=True, exist_ok=True)
        for name, place in links.items():
            link = folder / name
            if not link.is_symlink() or link.readlink() != place:  # otherwise a build for another GPU may be reading it
                link.unlink(missing_ok=True)
                link.symlink_to(place)
    return folder


def all_built() -> list[Built]:
    """Return every whole build of this home, those for other versions included, by name."""
    found = []
    for folder in sorted(kernels_dir().glob("torch*-sm*/")):
        made = read_step_info(folder)
        if made:
            target = Target(made["torch"], made["gsplat"], made["arch"])
            found.append(Built(target, folder, made["seconds"], fresh=False))
    return found
