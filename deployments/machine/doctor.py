"""The checks of `yard doctor`, each a pure function of facts that `requirements` gathers."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from deployments.machine.requirements import Gpu, Gsplat, Listener, Machine, Postgres, gather
from deployments.machine.slurm import SlurmFacts
from deployments.machine.toolchain import Tools, faults, how_to_get_nvcc
from deployments.stack.health import LOW_FREE_MIB
from deployments.stack.supervisor import LEAST_FREE_MIB
from tasks.base.project_files import install_command

State = Literal["ok", "warning", "missing"]

PYTHONS = ((3, 11), (3, 13))
"""First and last; pyproject.toml says why."""

ABILITIES = "abilities"
"""The name of the check that sums up the others."""


@dataclass(frozen=True, slots=True)
class Check:
    """What one look at the machine has shown.

    Args:
        name: of what was looked at.
        state: missing: what needs it does not work; warning: something works less well, or not yet.
        found: what there is.
        todo: what to do; empty where nothing is to be done.
        needed: whether `yard up` or a training on the CPU needs it.
    """

    name: str
    state: State
    found: str
    todo: str = ""
    needed: bool = False

    @property
    def stops(self) -> bool:
        """Return whether `yard up` or a training on the CPU cannot work."""
        return self.needed and self.state == "missing"


def examine() -> list[Check]:
    """Return every check of this machine, in the order in which things depend on each other."""
    return judge(gather())


def judge(machine: Machine) -> list[Check]:
    """Return every check of a machine; the last one sums up what it can do."""
    gpus = [gpu for gpu in machine.gpus if not gpu.simulated]
    checks = [
        check_python(machine.python),
        check_torch(machine.torch, machine.torch_fault, machine.tools.torch_cuda),
        check_driver(machine.driver, machine.driver_fault, machine.tools.torch_cuda, bool(gpus)),
        *(check_gpu(gpu) for gpu in machine.gpus),
        check_gsplat(machine.gsplat, bool(gpus)),
        *(check_kernels(gpu, machine.gsplat) for gpu in gpus),
        *check_tools(machine.tools, needs_kernels(gpus, machine.gsplat)),
        check_postgres(machine.postgres),
        check_disk(machine.home, machine.home_fault, machine.free_mib),
        check_roots(machine.roots, machine.home),
        check_access(machine.open_to),
        check_locks(machine.lock_dir, machine.lock_fault, machine.lock_note),
        *(check_port(listener) for listener in machine.ports),
        *check_background(machine.background),
        *check_slurm(machine.slurm),
        *(Check("notices", "warning", fault, "`yard notices test` tries them") for fault in machine.notices),
        check_numba(machine.numba_cache),
        check_encoder(machine.encoder_fault),
    ]
    return [*checks, check_abilities(machine.gpus, checks)]


def check_python(version: tuple[int, int, int]) -> Check:
    """Say whether the packages exist for this Python."""
    found = ".".join(map(str, version))
    if PYTHONS[0] <= version[:2] <= PYTHONS[1]:
        return Check("Python", "ok", found, needed=True)
    first, last = (".".join(map(str, each)) for each in PYTHONS)
    return Check("Python", "missing", found, f"make the environment with Python {first} to {last}", needed=True)


def check_torch(version: str | None, fault: str, cuda: str | None) -> Check:
    """Say whether torch is there and loads."""
    if version is None or fault:
        found = fault or "not installed"
        return Check("torch", "missing", found, install_command(), needed=True)
    built = f"built with CUDA {cuda}" if cuda else "built for the CPU only"
    return Check("torch", "ok", f"{version}, {built}", needed=True)


def check_driver(version: str | None, fault: str, torch_cuda: str | None, has_gpus: bool) -> Check:
    """Say whether the driver can run what torch is built with.

    Args:
        version: of the driver and of its CUDA, such as "580.65 (CUDA 13.0)"; None: there is no driver.
        fault: why it does not answer; empty: it does.
        torch_cuda: version of CUDA that torch is built with.
        has_gpus: whether there are real ones.
    """
    if fault:
        return Check("driver", "missing", fault, "install the driver again, or start the machine again")
    if version is None:
        return Check("driver", "warning", "no NVIDIA driver", "trainings run on the CPU: --device cpu")
    if not has_gpus:
        return Check("driver", "warning", f"{version}, and no GPU", "look at nvidia-smi; trainings run on the CPU")
    if torch_cuda is None:
        return Check("driver", "missing", f"{version}, torch is for the CPU only", "install a torch built with CUDA")
    have, need = _major(version.rpartition("CUDA ")[2]), _major(torch_cuda)
    if have < need:
        todo = f"torch needs a driver of CUDA {need}: install a newer one, or a torch built with CUDA {have}"
        return Check("driver", "missing", version, todo)
    return Check("driver", "ok", version)


def _major(version: str) -> int:
    return int(version.partition(".")[0].strip("() ") or 0)


def check_gpu(gpu: Gpu) -> Check:
    """Show a GPU; a simulated one is said to be one."""
    if gpu.simulated:
        return Check(gpu.tag, "warning", f"{gpu.name}: no such hardware", "its runs compute on the CPU")
    return Check(gpu.tag, "ok", f"{gpu.name}, compute capability {gpu.arch}, {gpu.memory_mib} MiB")


def check_gsplat(gsplat: Gsplat, has_gpus: bool) -> Check:
    """Say whether splats can be fitted on a GPU as far as the package goes."""
    if gsplat.version is None:
        state: State = "missing" if has_gpus else "warning"
        return Check("gsplat", state, "not installed", "for splatting on a GPU: `pip install -e '.[gpu]'`")
    return Check("gsplat", "ok", gsplat.version + (", with its own kernels" if gsplat.comes_built else ""))


def check_kernels(gpu: Gpu, gsplat: Gsplat) -> Check:
    """Say whether a GPU has its kernels."""
    name = f"kernels of {gpu.tag}"
    if gsplat.comes_built or gpu.arch in gsplat.archs:
        return Check(name, "ok", f"built for compute capability {gpu.arch}")
    todo = "`yard kernels build`" if gsplat.version else "install gsplat, then `yard kernels build`"
    return Check(name, "missing", f"none for compute capability {gpu.arch}", todo)


def needs_kernels(gpus: Sequence[Gpu], gsplat: Gsplat) -> bool:
    """Return whether kernels are still to be built here."""
    return not gsplat.comes_built and any(gpu.arch not in gsplat.archs for gpu in gpus)


def check_tools(tools: Tools, wanted: bool) -> list[Check]:
    """Say what there is to build kernels with.

    Args:
        tools: of this machine.
        wanted: a GPU lacks its kernels: without that nothing is amiss if a tool is missing.
    """
    absent: State = "missing" if wanted else "warning"
    said = dict(fault.split(": ", 1) for fault in faults(tools))
    kit = tools.toolkit
    found = {
        "nvcc": f"CUDA {kit.version} in {kit.home}" if kit else "",
        "g++": str(tools.compiler),
        "ninja": str(tools.ninja),
        "Python.h": str(tools.python_header),
    }
    checks = []
    for name, have in found.items():
        if name not in said:
            checks.append(Check(name, "ok", have))
            continue
        lacks, _, todo = said[name].partition(": ")
        checks.append(Check(name, absent, lacks, f"to build gsplat's kernels: {todo or how_to_get_nvcc(tools)}"))
    return checks


def check_postgres(postgres: Postgres) -> Check:
    """Say which database `yard up` would use."""
    if postgres.fault:
        return Check("PostgreSQL", "missing", postgres.fault, "see docs/operations.md", needed=True)
    if postgres.kind == "postgres":
        return Check("PostgreSQL", "ok", f"version {', '.join(postgres.versions)}", postgres.note, needed=True)
    if postgres.forced:
        return Check("PostgreSQL", "ok", "not used: TRAINYARD_DATABASE asks for SQLite", needed=True)
    return Check("PostgreSQL", "warning", "not used, SQLite is", postgres.note, needed=True)


def check_disk(home: str, fault: str, free_mib: int) -> Check:
    """Say whether the state of the yard has room."""
    if fault:
        todo = "make it writable, or set TRAINYARD_HOME to another folder"
        return Check("home", "missing", f"{home}: {fault}", todo, needed=True)
    found = f"{home}, {free_mib} MiB free"
    if free_mib < LEAST_FREE_MIB:
        return Check("home", "missing", found, f"free room there: {LEAST_FREE_MIB} MiB at least", needed=True)
    if free_mib < LOW_FREE_MIB:
        return Check("home", "warning", found, f"free room there: {LOW_FREE_MIB} MiB for some runs", needed=True)
    return Check("home", "ok", found, needed=True)


def check_roots(roots: str, home: str) -> Check:
    """Say which files runs get at."""
    if roots:
        return Check("roots", "ok", f"runs read and write below {roots} and {home}")
    todo = "whoever starts a run names any file that this user may read: set it to /data:... to limit that"
    return Check("roots", "warning", "TRAINYARD_ALLOWED_ROOTS is unset", todo)


def check_access(open_to: str) -> Check:
    """Say who else can command the yard."""
    if not open_to:
        return Check("access", "ok", "nobody else's account, or a password")
    found, _, todo = open_to.partition(": ")
    return Check("access", "warning", found, todo)


def check_locks(folder: str, fault: str, note: str) -> Check:
    """Say whether slots can be held."""
    if fault:
        todo = "see the message, or set TRAINYARD_LOCK_DIR to a folder that all users of this host can write"
        return Check("locks", "missing", fault, todo, needed=True)
    if note:
        return Check("locks", "warning", note, f"as root: `chown root {folder}`", needed=True)
    return Check("locks", "ok", folder, needed=True)


def check_port(listener: Listener) -> Check:
    """Say whether a service of `yard up` gets its port."""
    name = f"port {listener.port}"
    if listener.url:
        return Check(name, "ok", f"{listener.service} of this home is up at {listener.url}", needed=True)
    if not listener.taken:
        return Check(name, "ok", f"free, for {listener.service}", needed=True)
    todo = f"`yard up --{listener.service}-port` takes another one, or stop who listens"
    return Check(name, "missing", f"taken by another program, {listener.service} needs it", todo, needed=True)


def check_background(faults: Sequence[str] | None) -> list[Check]:
    """Say whether the services behind Prefect's server work; nothing where no server is up."""
    if faults is None:
        return []
    if not faults:
        return [Check("background", "ok", "the services behind Prefect's server do their work")]
    todo = "`yard down` and `yard up`; if that does not help, `make environment` for the versions that were tried"
    return [Check("background", "missing", "; ".join(faults), todo)]


def check_slurm(slurm: SlurmFacts | None) -> list[Check]:
    """Say whether `--on slurm` works; nothing where there is no Slurm."""
    if slurm is None:
        return []
    if slurm.missing:
        todo = "install the commands of your cluster's Slurm: apt-get install slurm-client munge"
        return [Check("Slurm", "missing", f"no {', '.join(slurm.missing)} in PATH", todo)]
    if not slurm.config:
        todo = "copy the cluster's slurm.conf to /etc/slurm, or name it by SLURM_CONF"
        return [Check("Slurm", "warning", "its commands are here, and no configuration", todo)]
    if slurm.fault:
        todo = "look at munged here and at slurmctld on its host: `scontrol ping`"
        return [Check("Slurm", "missing", slurm.fault, todo)]
    n_nodes = len(slurm.nodes)
    found = f"{n_nodes} node{'s' * (n_nodes != 1)}, {slurm.n_gpus} GPUs, by {slurm.config}"
    if not slurm.n_gpus:
        todo = "GresTypes=gpu and Gres=gpu:N in slurm.conf, File=/dev/nvidia[0-N] in gres.conf: no run on a GPU starts"
        return [Check("Slurm", "warning", found, todo)]
    if slurm.down:
        return [Check("Slurm", "warning", f"{found}; down: {', '.join(slurm.down)}", "`sinfo -R` says why")]
    if slurm.api:
        todo = "other machines than this cannot reach it: docs/slurm.md says what the cluster needs"
        return [Check("Slurm", "warning", f"{found}; Prefect is at {slurm.api}", todo)]
    return [Check("Slurm", "ok", found)]


def check_numba(folder: str | None) -> Check:
    """Say whether compiled kernels of the CPU are kept."""
    if folder is None:
        todo = "make one writable, or set NUMBA_CACHE_DIR: each splatting on the CPU compiles for a minute otherwise"
        return Check("numba", "warning", "no folder for compiled code can be written", todo)
    return Check("numba", "ok", f"keeps compiled code in {folder}")


def check_encoder(fault: str) -> Check:
    """Say whether videos of a result can be written."""
    if fault:
        todo = f"{install_command()}: PyAV's own wheels have x264"
        return Check("H.264", "missing", fault, todo, needed=True)
    return Check("H.264", "ok", "PyAV encodes with libx264", needed=True)


def check_abilities(gpus: Sequence[Gpu], checks: Sequence[Check]) -> Check:
    """Say in a sentence what the machine can do, and what not yet.

    Args:
        gpus: of the machine.
        checks: of all else.
    """
    found = {check.name: check for check in checks}
    if first := [check for check in checks if check.stops and not check.name.startswith("port ")]:
        what = "; ".join(f"{check.name}: {check.todo}" for check in first)
        return Check(ABILITIES, "missing", f"This machine can neither train nor predict yet ({what})")
    real = [gpu for gpu in gpus if not gpu.simulated]
    usable = real if found["driver"].state == "ok" else []
    drawing = [gpu for gpu in usable if {found["gsplat"].state, found[f"kernels of {gpu.tag}"].state} == {"ok"}]
    able = (
        f"train and predict on {_named(usable)}the CPU, fit splats on {_named(drawing, counted=len(usable) > 1)}the CPU"
    )
    lacking = [f"`yard up` ({check.todo})" for check in checks if check.stops]
    if real and not usable:
        lacking.append(f"{_counted(len(real))} ({found['driver'].todo})")
    elif len(drawing) < len(usable):
        todo = next(found[f"kernels of {gpu.tag}"].todo for gpu in usable if gpu not in drawing)
        lacking.append(f"splats on {_counted(len(usable) - len(drawing))} ({todo or found['gsplat'].todo})")
    if n := len(gpus) - len(real):
        able += f" ({n} simulated GPU{'s' * (n > 1)}: computed on the CPU)"
    rest = f"; not yet: {', '.join(lacking)}" if lacking else ""
    return Check(ABILITIES, "warning" if lacking else "ok", f"This machine can: {able}{rest}")


def _named(gpus: Sequence[Gpu], *, counted: bool | None = None) -> str:
    """Return "1 GPU (NVIDIA H200, 140 GiB) and ", or nothing; with `counted` without what they are."""
    if not gpus:
        return ""
    if counted is not None:
        return f"{_counted(len(gpus)) if counted else 'the GPU'} and "
    kinds = Counter(f"{gpu.name}, {gpu.memory_mib / 1024:.0f} GiB" for gpu in gpus)
    each = (f"{n} x {kind}" if len(kinds) > 1 else kind for kind, n in kinds.items())
    return f"{_counted(len(gpus))} ({'; '.join(each)}) and "


def _counted(n: int) -> str:
    return f"{n} GPU{'s' * (n > 1)}"


def lines(checks: Sequence[Check]) -> Iterator[str]:
    """Yield what people read: a line for each check, at last what the machine can do."""
    for check in checks:
        if check.name == ABILITIES:
            continue
        todo = f" -> {check.todo}" if check.todo else ""
        yield f"{check.state:<8}{check.name:<18}{check.found}{todo}"
    stopping = [check.name for check in checks if check.stops]
    if stopping:
        yield f"`yard up` and trainings on the CPU need: {', '.join(stopping)}"
    yield from (check.found for check in checks if check.name == ABILITIES)
