"""The wheel holds the four packages with all that they read, and works where there is no checkout."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from deployments.services.service import free_port
from tasks.base.project_files import install_command, project_file

ROOT = Path(__file__).parents[1]
UV = Path(sys.executable).parent / "uv"
PACKAGES = ("deployments", "flows", "gpu_pools", "tasks")
COPIED = {"prefect.yaml", "mlflow/server.env"}  # from the top of the checkout to tasks/base/project/

VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
SMALL = ("spectrogram.sample_rate_hz=1e5", "spectrogram.frame_s=0.1", "spectrogram.n_fft=64")


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The folder with a wheel and a source distribution."""
    folder = tmp_path_factory.mktemp("built")
    source = folder / "source"  # builds leave folders behind
    for name in PACKAGES:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in (*COPIED, "mlflow/README.md", "pyproject.toml", "setup.py", "README.md", "LICENSE"):
        (source / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, source / name)
    (source / "build" / "lib" / "tasks").mkdir(parents=True)
    (source / "build" / "lib" / "tasks" / "gone.py").touch()
    for words in (["--wheel"], ["--sdist"]):
        # This Python, whatever the current folder: uv looks for an environment there.
        options = ("--quiet", "--offline", "--no-build-isolation", "--python", sys.executable, "--out-dir", folder)
        command = [UV, "build", *options, *words, source]
        subprocess.run(command, check=True)
    return folder


def test_a_wheel_holds_the_packages_with_what_they_read_and_nothing_else(built):
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as content:
        found = {name for name in content.namelist() if ".dist-info/" not in name}
    sources = {path for name in PACKAGES for path in (ROOT / name).rglob("*") if path.is_file()}
    wanted = {path.relative_to(ROOT).as_posix() for path in sources if "__pycache__" not in path.parts}
    assert found == wanted | {f"tasks/base/project/{name}" for name in COPIED}


def test_a_source_distribution_has_what_the_wheel_is_made_of(built):
    (archive,) = built.glob("*.tar.gz")
    with tarfile.open(archive) as content:
        found = {name.partition("/")[2] for name in content.getnames()}
    assert COPIED | {"setup.py", "pyproject.toml", "tasks/splatting/results/viewer.html"} <= found


def test_a_checkout_reads_its_own_files():
    assert {name: project_file(name) for name in COPIED} == {name: ROOT / name for name in COPIED}
    assert install_command("gpu") == "`pip install -e '.[gpu]'` in the checkout"


@dataclass
class Installed:
    """The wheel in an environment of its own, called from a folder that has nothing to do with the checkout."""

    bin: Path
    folder: Path
    environ: dict[str, str]

    def call(self, program, *words):
        command = [str(self.bin / program), *map(str, words)]
        done = subprocess.run(command, cwd=self.folder, env=self.environ, capture_output=True, text=True, check=False)
        assert "Traceback" not in done.stdout + done.stderr, done.stdout + done.stderr
        return done

    def yard(self, *words):
        done = self.call("yard", *words)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def installed(built, tmp_path_factory):
    """The other packages are those of this environment, by a .pth file: the same versions, not fetched once more.

    Python does not read the .pth files of a folder that is named so: our own packages, which the checkout's environment
    finds by one, come from the wheel alone.
    """
    folder = tmp_path_factory.mktemp("elsewhere")
    python = folder / "environment" / "bin" / "python"
    (wheel,) = built.glob("*.whl")
    subprocess.run([UV, "venv", "--quiet", "--python", sys.executable, python.parent.parent], check=True)
    site = f"lib/python{sysconfig.get_python_version()}/site-packages"
    (python.parent.parent / site / "others.pth").write_text(sysconfig.get_path("purelib"))
    install = [UV, "pip", "install", "--quiet", "--offline", "--no-deps", "--python", python, wheel]
    subprocess.run(install, check=True)
    for name in ("tasks", "mlflow"):  # of the person whose folder it is
        (folder / "work" / name).mkdir(parents=True)
        (folder / "work" / name / "__init__.py").write_text("raise RuntimeError('not this one')")
    ours = ("PREFECT_", "MLFLOW_", "TRAINYARD_", "PYTHON", "VIRTUAL_ENV")
    environ = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    own = {
        "TRAINYARD_HOME": str(folder / "home"),
        "TRAINYARD_LOCK_DIR": str(folder / "locks"),
        "TRAINYARD_DATABASE": "sqlite",
        "CUDA_VISIBLE_DEVICES": "",
        "PATH": "/usr/bin:/bin",
    }
    return Installed(python.parent, folder / "work", environ | own)


@pytest.fixture(scope="module")
def recordings(installed):
    """Two recordings of four frames each."""
    folder = installed.folder / "recordings" / "calm"
    folder.mkdir(parents=True)
    for seed in range(2):
        samples = np.random.default_rng(seed).normal(size=(40_000, 2)).astype(np.float32)
        samples.tofile(folder / f"{seed}.iq")
    return folder.parent


@pytest.mark.long
def test_the_packages_are_those_of_the_wheel(installed):
    code = f"import {', '.join(PACKAGES)}, mlflow; print({', '.join(f'{name}.__file__' for name in PACKAGES)})"
    found = installed.call("python", "-P", "-c", code).stdout.split()
    assert len(found) == 4
    assert all(Path(path).is_relative_to(installed.bin.parent) for path in found)


@pytest.mark.long
def test_an_installed_yard_says_its_version_and_looks_at_the_machine(installed):
    assert installed.yard("--version") == f"yard {VERSION}\n"
    checks = {check["name"]: check for check in json.loads(installed.call("yard", "doctor", "--json").stdout)}
    assert checks["torch"]["state"] == "ok"


@pytest.mark.long
def test_who_misses_a_package_is_not_sent_to_a_checkout(installed):
    code = "from tasks.base.project_files import install_command as c; print(c(), c('gpu'))"
    assert (
        installed.call("python", "-P", "-c", code).stdout == "`pip install trainyard` `pip install 'trainyard[gpu]'`\n"
    )


@pytest.mark.long
def test_an_installed_yard_runs_a_flow(installed, recordings):
    output = installed.folder / "here"
    sets = [word for value in (*SMALL, f"output={output}") for word in ("--set", value)]
    installed.yard("run", "spectrograms", "--data", recordings, *sets)
    assert len(list(output.rglob("*.png")) + list(output.rglob("*.jpg"))) == 8


@pytest.mark.long
@pytest.mark.timeout(900)
def test_an_installed_yard_starts_its_services_takes_a_run_and_ends(installed, recordings):
    output = installed.folder / "queued"
    installed.yard("up", "--detach", "--prefect-port", free_port(), "--mlflow-port", free_port())
    try:
        installed.yard("submit", "spectrograms", f"data={recordings}", *SMALL, f"output={output}", "--watch")
        assert len(list(output.rglob("*.png")) + list(output.rglob("*.jpg"))) == 8
    finally:
        said = installed.yard("down")
    assert said
