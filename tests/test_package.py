"""The wheel holds the four packages with all that they read, and works where there is no checkout."""

import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tasks.base.project_files import project_file

ROOT = Path(__file__).parents[1]
UV = Path(sys.executable).parent / "uv"
PACKAGES = ("deployments", "flows", "gpu_pools", "tasks")
COPIED = {"prefect.yaml", "mlflow/server.env"}  # from the top of the checkout to tasks/base/project/


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
        command = [UV, "build", "--quiet", "--offline", "--no-build-isolation", "--out-dir", folder, *words, source]
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
