"""Gathers the facts that `yard doctor` judges; changes nothing, and imports nothing heavy."""

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pynvml

from deployments.machine.accounts import open_to, other_people
from deployments.machine.kernels import comes_built
from deployments.machine.slurm import SlurmFacts, slurm_facts
from deployments.machine.toolchain import Tools, find_tools, package_dir
from deployments.notices.notice_report import notice_faults
from deployments.services.database import choose
from deployments.services.postgres import installed as postgres_programs
from deployments.services.postgres import load, server_user
from deployments.stack.background import background_faults
from deployments.stack.stack import LOOPBACK, ServiceError, known_stack
from gpu_pools.kernels import built, installed, target_for
from gpu_pools.placement.probe import get_probe
from gpu_pools.slots.lease import holders
from gpu_pools.slots.slot_files import lock_dir
from tasks.base.errors import ConfigError, GpuError, StorageError, TrainyardError
from tasks.base.servers.database import forced_kind, postgres_record
from tasks.base.workspace import allowed_roots, home

PORTS = {"prefect": 4200, "mlflow": 5000}
"""What `yard up` listens on unless told otherwise."""

_IMPORT_LIMIT_S = 5.0
_KERNELS = Path(__file__).resolve().parents[2] / "tasks" / "geometry"  # numba keeps machine code there


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU as far as it matters here."""

    tag: str
    name: str
    arch: str  # compute capability
    memory_mib: int
    simulated: bool


@dataclass(frozen=True, slots=True)
class Gsplat:
    """The package whose kernels draw splats on a GPU.

    Args:
        version: None: not installed.
        comes_built: whether it came with compiled kernels.
        archs: compute capabilities of this host's GPUs for which `yard kernels build` has built.
    """

    version: str | None
    comes_built: bool
    archs: frozenset[str]


@dataclass(frozen=True, slots=True)
class Postgres:
    """The database that `yard up` would use.

    Args:
        kind: sqlite or postgres.
        forced: whether TRAINYARD_DATABASE says so.
        versions: of PostgreSQL's programs on this machine.
        note: what a person must know about the choice.
        fault: why it would not start; empty: nothing is known against it.
    """

    kind: str
    forced: bool
    versions: tuple[str, ...]
    note: str
    fault: str


@dataclass(frozen=True, slots=True)
class Listener:
    """A port of a service.

    Args:
        port: its number.
        service: prefect or mlflow.
        url: of that service where this home has it up, on whatever port; empty: it has not.
        taken: whether anybody listens on the port.
    """

    port: int
    service: str
    url: str
    taken: bool


@dataclass(frozen=True, slots=True)
class Machine:
    """All of the facts; a `..._fault` says why something does not work, and is empty where it does."""

    python: tuple[int, int, int]
    torch: str | None
    torch_fault: str
    driver: str | None  # "580.65 (CUDA 13.0)"
    driver_fault: str
    gpus: tuple[Gpu, ...]
    gsplat: Gsplat
    tools: Tools
    postgres: Postgres
    home: str
    home_fault: str
    free_mib: int
    roots: str  # that runs get at; empty: all that this user may
    open_to: str  # who else can command the yard, a sentence; empty: nobody
    lock_dir: str
    lock_fault: str
    ports: tuple[Listener, ...]
    numba_cache: str | None
    encoder_fault: str
    lock_note: str = ""  # for whom the folder does not serve
    background: tuple[str, ...] | None = None  # what does not work behind Prefect's server; None: none is up
    slurm: SlurmFacts | None = None  # None: there is none
    notices: tuple[str, ...] = ()  # what keeps them from being sent


def gather() -> Machine:
    """Return the facts of this machine, in some seconds."""
    # In a process of its own, beside all the rest: it takes seconds, and may die of a library that does not fit.
    with subprocess.Popen(
        [sys.executable, "-c", "import torch"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as importing:
        try:
            driver, driver_fault = _driver()
            gpus, gpu_fault = _gpus()
            locks, lock_fault = _locks()
            state, home_fault = home(), unwritable(home())
            return Machine(
                python=sys.version_info[:3],
                driver=driver,
                driver_fault=driver_fault or gpu_fault,
                gpus=gpus,
                gsplat=_gsplat(gpus),
                tools=find_tools(),
                postgres=_postgres(),
                home=str(state),
                home_fault=home_fault,
                free_mib=shutil.disk_usage(_existing(state)).free // 2**20,
                roots=":".join(map(str, allowed_roots())),
                open_to=_open_to(),
                lock_dir=locks,
                lock_fault=lock_fault,
                lock_note=lock_note(Path(locks), other_people()) if locks else "",
                ports=listeners(PORTS),
                numba_cache=_numba_cache(),
                encoder_fault=_encoder_fault(),
                background=_background(),
                slurm=slurm_facts(),
                notices=tuple(notice_faults()),
                torch=installed("torch"),
                torch_fault=_import_fault(importing),  # last, when it has had its time
            )
        finally:
            importing.kill()


def _import_fault(importing: "subprocess.Popen[str]") -> str:
    try:
        _, said = importing.communicate(timeout=_IMPORT_LIMIT_S)
    except subprocess.TimeoutExpired:
        return ""  # a busy machine; what does not fit fails at once
    if importing.returncode == 0:
        return ""
    return "does not load: " + (said.strip().splitlines() or [f"it ended with code {importing.returncode}"])[-1]


def _driver() -> tuple[str | None, str]:
    try:
        pynvml.nvmlInit()
        cuda = pynvml.nvmlSystemGetCudaDriverVersion_v2()
        return f"{pynvml.nvmlSystemGetDriverVersion()} (CUDA {cuda // 1000}.{cuda % 1000 // 10})", ""
    except (pynvml.NVMLError_LibraryNotFound, pynvml.NVMLError_DriverNotLoaded):
        return None, ""
    except pynvml.NVMLError as exc:
        return None, f"NVIDIA's driver says {exc}"


def _gpus() -> tuple[tuple[Gpu, ...], str]:
    try:
        found = get_probe().devices()
    except GpuError as exc:
        return (), str(exc)
    return tuple(
        Gpu(gpu.tag, gpu.name, gpu.compute_capability, gpu.memory_total_mib, gpu.simulated) for gpu in found
    ), ""


def _gsplat(gpus: tuple[Gpu, ...]) -> Gsplat:
    package = package_dir("gsplat")
    targets = {gpu.arch: target_for(gpu.arch) for gpu in gpus if not gpu.simulated}
    archs = frozenset(arch for arch, target in targets.items() if target and built(target))
    return Gsplat(installed("gsplat"), package is not None and comes_built(package), archs)


def _postgres() -> Postgres:
    versions, fault = postgres_programs(), ""
    try:
        kind, notes = choose(make=True)
        if kind == "postgres" and postgres_record():
            load()
        elif kind == "postgres" and not (versions and server_user()):
            fault = "TRAINYARD_DATABASE asks for PostgreSQL, found no programs of it that run here"
    except TrainyardError as exc:
        kind, notes, fault = "postgres", (), str(exc)
    return Postgres(kind, not fault and forced_kind() is not None, tuple(sorted(versions)), "; ".join(notes), fault)


def _open_to() -> str:
    try:
        return open_to(other_people())
    except StorageError as exc:
        return str(exc)


def _locks() -> tuple[str, str]:
    try:
        folder = lock_dir()
        holders()  # every file in it can be read
    except StorageError as exc:
        return "", str(exc)
    return str(folder), unwritable(folder)


def lock_note(folder: Path, people: list[str]) -> str:
    """Return why a folder of locks does not serve all of `people`, empty where it does or is meant for this user alone.

    Args:
        folder: of the locks.
        people: with an account on this machine.
    """
    owner = folder.stat().st_uid
    if owner == 0 or not people or os.environ.get("TRAINYARD_LOCK_DIR"):
        return ""
    return f"{folder} belongs to user {owner}, so that the other accounts here are refused it and share no locks"


def listeners(ports: Mapping[str, int]) -> tuple[Listener, ...]:
    """Return who listens on ports that services need: name -> port."""
    try:
        ours = known_stack()
    except StorageError:
        ours = {}  # a damaged record; `yard up` puts it away
    return tuple(Listener(port, name, ours.get(name, ""), _taken(port)) for name, port in ports.items())


def _taken(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((LOOPBACK, port)) == 0


def _background() -> tuple[str, ...] | None:
    try:
        return tuple(background_faults())
    except (ConfigError, ServiceError, StorageError):
        return None


def _numba_cache() -> str | None:
    """Return the first folder of those that numba tries that can be written."""
    given = os.environ.get("NUMBA_CACHE_DIR")
    user = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "numba"
    places = [Path(given) if given else _KERNELS / "__pycache__", user]
    return next((str(place) for place in places if not unwritable(place)), None)


def unwritable(folder: Path) -> str:
    """Return why files cannot be made in a folder, or it itself; empty: they can."""
    place = _existing(folder)
    if not place.is_dir():
        return f"{place} is no folder"
    return "" if os.access(place, os.W_OK | os.X_OK, effective_ids=True) else f"this user cannot write in {place}"


def _existing(folder: Path) -> Path:
    """Return the folder, or the nearest above it that is there."""
    return next(place for place in (folder, *folder.parents) if place.exists())


def _encoder_fault() -> str:
    try:
        import av

        av.Codec("libx264", "w")
    except (ImportError, ValueError) as exc:
        return f"PyAV has no libx264: {exc}"
    return ""
