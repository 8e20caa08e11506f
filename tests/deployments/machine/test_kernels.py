"""Kernels are built once, whole or not at all; nvcc and gsplat, which need minutes and a toolkit, are played here."""

import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import psutil
import pytest

from deployments.machine import toolchain
from deployments.machine.kernels import (
    BuildError,
    Toolkit,
    all_built,
    build,
    build_log,
    cuda_home,
    needed_target,
    wanted_archs,
)
from deployments.machine.toolchain import Tools, faults, find_tools, torch_cuda
from gpu_pools import kernels as pool_kernels
from gpu_pools.kernels import Target, built, kernel_environment, target_for
from gpu_pools.placement.devices import simulated
from gpu_pools.process.run_setup import process_environment
from gpu_pools.slots.lease import Holder, acquire
from gpu_pools.slots.ledger import Entry
from tasks.base.errors import ConfigError, GpuError
from tasks.base.file_locks import file_lock
from tasks.base.progress import finish

YARD = Path(sys.executable).parent / "yard"
CUDA = torch_cuda() or "13.0"
BACKEND = """
import os, pathlib, subprocess
folder = pathlib.Path(os.environ["TORCH_EXTENSIONS_DIR"]) / "gsplat_cuda"
folder.mkdir()
mode = os.environ.get("PLAYED", "whole")
for step in (1, 2, 3):
    print(f"[{step}/3] nvcc sm_{os.environ['TORCH_CUDA_ARCH_LIST']} file{step}.cu", flush=True)
    if step == 2 and mode == "broken":
        print("FAILED: file2.o", "/cuda/bin/nvcc -I/somewhere " * 100, sep="\\n", flush=True)
        print("file2.cu(7): error: identifier is undefined", flush=True)
        raise RuntimeError("Error building extension 'gsplat_cuda'")
    if step == 2 and mode == "slow":
        compiler = subprocess.Popen(["sleep", "600"])
        (folder / "compiler").write_text(str(compiler.pid))
        compiler.wait()
if mode != "empty":
    (folder / "gsplat_cuda.so").write_text("machine code")
_C = None if mode == "without nvcc" else object()
"""


def script(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


@pytest.fixture
def bench(tmp_path, monkeypatch):
    """A machine with a gsplat, an nvcc, a compiler and a ninja; the folder they are in."""
    monkeypatch.delitem(sys.modules, "gsplat", raising=False)  # the real one, of another test: it would be found
    package = tmp_path / "site" / "gsplat"
    (package / "cuda").mkdir(parents=True)
    for name in ("__init__.py", "cuda/__init__.py"):
        (package / name).write_text("")
    (package / "cuda" / "_backend.py").write_text(BACKEND)
    about = tmp_path / "site" / "gsplat-1.5.3.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: gsplat\nVersion: 1.5.3\n")
    script(tmp_path / "cuda" / "bin" / "nvcc", f"echo Cuda compilation tools, release {CUDA}, V{CUDA}.1")
    (tmp_path / "cuda" / "include").mkdir()
    (tmp_path / "cuda" / "include" / "cuda_runtime.h").write_text("")
    for name in ("ninja", "c++"):
        script(tmp_path / "bin" / name, "exit 1")
    monkeypatch.syspath_prepend(tmp_path / "site")
    for name in ("TORCH_EXTENSIONS_DIR", "CXX", "CC", "TRAINYARD_SIMULATE_GPUS", "PLAYED"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "cuda"))
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    monkeypatch.setenv("TRAINYARD_HOME", str(tmp_path / "home"))
    return tmp_path


@pytest.fixture
def target(bench):
    return needed_target("9.0")


def gpu(arch: str):
    return replace(simulated(0), uuid="GPU-1", compute_capability=arch)


def gone(pid: int) -> bool:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX":
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.05)
    return False


def compiler_of(target: Target) -> int:
    file = target.folder / "gsplat_cuda" / "compiler"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if file.is_file() and (text := file.read_text()):
            return int(text)
        time.sleep(0.05)
    raise AssertionError("no compiler was started")


# Building.


def test_the_steps_of_ninja_are_told_and_the_library_is_there(target):
    work = build(target, 2)
    assert [next(work), next(work), next(work)] == [(1, 3), (2, 3), (3, 3)]
    assert not built(target)
    made = finish(work)
    assert made.fresh
    assert made.folder == target.folder
    assert target.folder.name.endswith("-gsplat1.5.3-sm9.0")
    assert built(target)["library"] == "gsplat_cuda/gsplat_cuda.so"
    assert "[3/3] nvcc sm_9.0 file3.cu\n" in build_log(target).read_text()


def test_a_second_build_finds_the_first_one_and_needs_no_tools(target, bench, monkeypatch):
    first = finish(build(target, 1))
    library = target.folder / built(target)["library"]
    before = library.stat().st_mtime_ns
    monkeypatch.setenv("PATH", str(bench / "nothing"))
    again = finish(build(target, 1))
    assert (again.fresh, again.seconds, library.stat().st_mtime_ns) == (False, first.seconds, before)


def test_a_compiler_that_fails_is_quoted_and_leaves_nothing_that_looks_whole(target, monkeypatch):
    monkeypatch.setenv("PLAYED", "broken")
    with pytest.raises(BuildError) as failure:
        finish(build(target, 1))
    said = str(failure.value)
    assert said.startswith("gsplat's kernels for compute capability 9.0 cannot be built (code 1); the end of ")
    assert max(map(len, said.splitlines()[1:])) < 250
    assert said.endswith("error: identifier is undefined\nRuntimeError: Error building extension 'gsplat_cuda'")
    assert not built(target)
    monkeypatch.delenv("PLAYED")
    assert finish(build(target, 1)).fresh


@pytest.mark.parametrize(
    ("played", "said"), [("without nvcc", "gsplat found no nvcc"), ("empty", "left no library in")]
)
def test_a_build_that_only_seems_to_succeed_is_refused(target, monkeypatch, played, said):
    monkeypatch.setenv("PLAYED", played)
    with pytest.raises(BuildError, match=said):
        finish(build(target, 1))
    assert not built(target)


@pytest.fixture
def slow_build(target, monkeypatch):
    """A build in the middle of its work, and the number of its compiler's process."""
    monkeypatch.setenv("PLAYED", "slow")
    work = build(target, 1)
    assert [next(work), next(work)] == [(1, 3), (2, 3)]
    return work, compiler_of(target)


def test_a_build_that_is_given_up_ends_its_compilers(target, slow_build):
    work, compiler = slow_build
    work.close()
    assert gone(compiler)
    assert not built(target)


def test_a_build_whose_own_process_is_killed_ends_at_once(slow_build):
    work, compiler = slow_build
    os.kill(psutil.Process(compiler).ppid(), signal.SIGKILL)
    with pytest.raises(BuildError, match="code -9"):
        finish(work)
    assert gone(compiler)


def test_a_build_killed_in_the_middle_ends_its_compilers_and_is_made_anew(target):
    command = [str(YARD), "kernels", "build", "--arch", "9.0", "--jobs", "1"]
    killed = subprocess.Popen(command, env={**os.environ, "PLAYED": "slow"}, stdout=subprocess.DEVNULL)
    compiler = compiler_of(target)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert gone(compiler)
    assert not built(target)
    assert not all_built()
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert re.fullmatch(rf"built in \d+ s: {target.folder}", done.stdout.splitlines()[-1])
    assert (target.folder / "gsplat_cuda" / "gsplat_cuda.so").is_file()
    assert not (target.folder / "gsplat_cuda" / "compiler").exists()


def test_two_builds_of_the_same_do_not_meet(target):
    lock = target.folder.with_name(f"{target.folder.name}.lock")
    with file_lock(lock, "the other build"), pytest.raises(ConfigError, match=f"held by process {os.getpid()}"):
        finish(build(target, 1))
    assert finish(build(target, 1)).fresh


# What is asked for, and what is missing.


def test_without_a_gpu_an_architecture_must_be_named():
    with pytest.raises(GpuError, match=r"found no GPU on this host.*--arch 9\.0"):
        wanted_archs(None, [])
    with pytest.raises(GpuError, match="found simulated GPUs only"):
        wanted_archs(None, [simulated(0)])


def test_each_kind_of_gpu_is_built_for_once():
    assert wanted_archs(None, [gpu("9.0"), gpu("8.6"), gpu("9.0"), simulated(1)]) == ["8.6", "9.0"]
    assert wanted_archs("9.0, 8.6,9.0", []) == ["9.0", "8.6"]


@pytest.mark.parametrize("arch", ["sm_90", "90", "9.0+PTX", "../9.0", ""])
def test_what_is_no_compute_capability_is_refused(arch):
    with pytest.raises(ConfigError, match=r"need a compute capability such as 9\.0"):
        wanted_archs(arch, [])


def test_without_gsplat_the_way_to_get_it_is_told(monkeypatch):
    version = pool_kernels.version

    def without(name):
        if name == "gsplat":
            raise PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(pool_kernels, "version", without)
    assert target_for("9.0") is None
    with pytest.raises(ConfigError, match=r"gsplat is not installed in .*pip install -e '\.\[gpu\]'"):
        needed_target("9.0")


def test_a_gsplat_with_kernels_of_its_own_is_left_alone(bench):
    (bench / "site" / "gsplat" / "csrc.cpython-311-x86_64-linux-gnu.so").write_text("")
    with pytest.raises(ConfigError, match="came with its kernels"):
        needed_target("9.0")


def test_all_that_is_missing_is_told_at_once():
    said = faults(Tools("13.2", (Toolkit(Path("/opt/cuda"), "12.4"),), None, None, None))
    assert [line.partition(":")[0] for line in said] == ["nvcc", "g++", "ninja", "Python.h"]
    assert said[0].startswith("nvcc: found 12.4 in /opt/cuda, need one of CUDA 13.2, as torch is built with it")
    assert "pip install 'nvidia-cuda-nvcc==13.2.*'" in said[0]


def test_a_missing_tool_ends_the_build_before_anything_is_removed(target, bench, monkeypatch):
    (bench / "bin" / "ninja").unlink()
    monkeypatch.setenv("PATH", str(bench / "bin"))
    found = find_tools()
    if found.ninja is not None:  # pip's, beside the interpreter
        monkeypatch.setattr(sys, "executable", str(bench / "bin" / "python"))
    with pytest.raises(ConfigError, match="ninja: found none: `pip install ninja`"):
        finish(build(target, 1))
    assert not target.folder.exists()


def test_an_nvcc_without_headers_beside_it_is_not_taken_for_a_toolkit(bench, monkeypatch):
    script(bench / "bin" / "nvcc", f"exec {bench}/cuda/bin/nvcc")
    monkeypatch.delenv("CUDA_HOME")
    assert bench not in [kit.home for kit in find_tools().toolkits]  # what torch would take for CUDA_HOME
    monkeypatch.setenv("CUDA_HOME", str(bench / "cuda"))
    assert find_tools().toolkit == Toolkit(bench / "cuda", CUDA)


def test_the_toolkit_of_torchs_major_version_is_taken():
    kits = (Toolkit(Path("/a"), "12.9"), Toolkit(Path("/b"), "13.0"))
    assert Tools("13.2", kits, None, None, None).toolkit == kits[1]
    assert Tools("11.8", kits, None, None, None).toolkit is None
    assert Tools(None, kits, None, None, None).toolkit is None


def test_pips_packages_become_a_folder_the_linker_can_use(bench):
    home = bench / "site" / "nvidia" / "cu13"
    for name in ("bin/nvcc", "include/cuda_runtime.h", "nvvm/bin/cicc", "lib/libcudart.so.13", "lib/libnvvm.so.4"):
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(name)
    for _ in range(2):  # the second time all is there
        made = cuda_home(Toolkit(home, "13.2"))
        assert (made / "lib64" / "libcudart.so").read_text() == "lib/libcudart.so.13"
        assert (made / "bin" / "nvcc").read_text() == "bin/nvcc"
        assert (made / "include" / "cuda_runtime.h").is_file()
        assert (made / "nvvm" / "bin" / "cicc").is_file()


def test_torchs_cuda_is_what_torch_itself_says():
    code = "import torch; print(torch.version.cuda)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert str(toolchain.torch_cuda()) == said


# Runs find them.


def test_a_run_on_a_gpu_finds_its_kernels_and_compiles_nothing_anew(target, bench):
    finish(build(target, 1))
    found = kernel_environment(gpu("9.0"), {"PATH": "/usr/games"})
    assert found["TORCH_EXTENSIONS_DIR"] == str(target.folder)
    assert found["TORCH_CUDA_ARCH_LIST"] == "9.0"
    assert found["CUDA_HOME"] == str(bench / "cuda")
    assert found["FAST_COMPILE"] == "0"
    assert found["PATH"] == f"/usr/games:{bench / 'bin'}"  # torch asks for ninja before it loads
    assert "PATH" not in kernel_environment(gpu("9.0"), {"PATH": str(bench / "bin")})


def test_the_process_of_a_run_is_started_with_them(target, bench, monkeypatch):
    finish(build(target, 1))
    monkeypatch.setenv("TRAINYARD_LOCK_DIR", str(bench / "locks"))
    monkeypatch.setenv("CUDA_HOME", "/another")
    holder = Holder("r", "fox", "anna@boxa", "cuda:0", "GPU-1", "training", -1, os.getpid(), time.time(), None)
    entry = Entry("r", "fox", "anna@boxa", "cuda:0.training", "cuda:0", "GPU-1", 0, "claimed", 1, time.time())
    lease = acquire("GPU-1", "training", 1, holder)
    assert lease is not None
    with lease:
        for devices, folder in (([gpu("9.0")], str(target.folder)), ([], None)):
            found = process_environment(
                entry, lease, devices, entrypoint="flows.splatting.train_splat", extra={}, threads=1
            )
            assert found.get("TORCH_EXTENSIONS_DIR") == folder
            assert found["CUDA_HOME"] == (str(bench / "cuda") if folder else "/another")


def test_no_other_run_is_told_of_them(target):
    finish(build(target, 1))
    assert kernel_environment(gpu("8.6"), {}) == {}
    assert kernel_environment(None, {}) == {}
    assert kernel_environment(simulated(0), {}) == {}
    assert kernel_environment(gpu("9.0"), {"TORCH_EXTENSIONS_DIR": "/mine"}) == {}


def test_kernels_of_another_python_or_without_their_library_count_as_none(target, monkeypatch):
    finish(build(target, 1))
    with monkeypatch.context() as other:
        other.setattr("gpu_pools.kernels.interpreter", lambda: "cpython-99")
        assert kernel_environment(gpu("9.0"), {}) == {}
    assert kernel_environment(gpu("9.0"), {})
    (target.folder / built(target)["library"]).unlink()
    assert kernel_environment(gpu("9.0"), {}) == {}


def test_the_status_shows_what_is_built(target):
    def said() -> str:
        return subprocess.run([str(YARD), "kernels", "status"], capture_output=True, text=True, check=True).stdout

    assert "built   " not in said()
    finish(build(target, 1))
    assert f"built   torch {target.torch}, gsplat 1.5.3, compute capability 9.0: {target.folder}" in said()
    assert [made.target for made in all_built()] == [target]
