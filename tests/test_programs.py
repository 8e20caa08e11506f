"""Services are modules of the interpreter that starts them: nothing has to lie beside it, or be the first on a PATH."""

import os
import site
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from deployments.services.programs import apply_program, mlflow_service, prefect_service, worker_program

ROOT = Path(__file__).parents[1]
ANSWERS = """
from deployments.machine.environment import make_prefect_home, prepare_environment
prepare_environment()
make_prefect_home()
from deployments.services.programs import mlflow_service, prefect_service
from deployments.services.service import free_port, running
for service in (prefect_service(free_port(), ui=False), mlflow_service(free_port())):
    with running(service):
        print(service.name.rpartition("-")[0], "answers")
"""


@pytest.mark.parametrize(
    "program",
    [prefect_service(1, ui=True), mlflow_service(2), worker_program("w", {}), apply_program({})],
    ids=lambda program: program.name,
)
def test_a_program_is_a_module_of_this_interpreter(program):
    assert program.argv[:3] == (sys.executable, "-P", "-m")
    assert find_spec(program.argv[3])


def test_a_program_starts_where_a_folder_has_the_name_of_a_package_of_ours(tmp_path):
    for name in ("tasks", "flows", "mlflow"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise RuntimeError('not this one')")
    argv = [*worker_program("w", {}).argv, "--help"]
    subprocess.run(argv, cwd=tmp_path, check=True, stdout=subprocess.DEVNULL)


@pytest.mark.yard
def test_the_servers_start_from_an_interpreter_that_nothing_lies_beside(tmp_path):
    lone = tmp_path / "bin" / "python"
    lone.parent.mkdir()
    lone.symlink_to(Path(sys.executable).resolve())
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "MLFLOW_"))}
    env |= {
        "TRAINYARD_HOME": str(tmp_path / "yard"),
        "PYTHONPATH": os.pathsep.join([str(ROOT), *site.getsitepackages()]),
        "PATH": "/usr/bin:/bin",
    }
    done = subprocess.run([lone, "-c", ANSWERS], capture_output=True, text=True, env=env, cwd=tmp_path, check=False)
    assert done.stdout.split() == ["prefect", "answers", "mlflow", "answers"], done.stderr


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks").glob("*.py")), ids=lambda path: path.stem)
def test_a_benchmark_is_called_like_no_module_that_it_may_need(path):
    # Its folder stands first on the path of whatever script there runs: one called requests.py ends all of MLflow.
    assert find_spec(path.stem) is None
