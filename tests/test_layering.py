"""Imports point down only, and nothing heavy is loaded before it is needed."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.base import errors

ROOT = Path(__file__).parents[1]
PACKAGES = ("gpu_pools", "tasks", "flows", "deployments")
PIPELINES = ("tasks.classification", "tasks.splatting", "tasks.recognition", "tasks.inference", "tasks.vision_language")
# From the ground up: what stands on a floor imports from its own and those below.
FLOORS = (
    ("tasks.base",),
    ("tasks.store",),
    ("gpu_pools",),
    ("tasks.run", "tasks.tracking"),
    ("tasks.images", "tasks.signals", "tasks.geometry", "tasks.training"),
    PIPELINES,
    ("tasks.trial", "tasks.housekeeping", "tasks.programs", "tasks.accounts"),
    ("flows",),
    ("deployments",),
)
# What answers is what was trained.
ACROSS = {
    ("tasks.inference", "tasks.classification"),
    ("tasks.inference", "tasks.recognition"),
}
MAX_MODULES = 16
SHELL = {
    "tasks/accounts/steps.py",
    "tasks/run/prefect_page.py",
    "tasks/run/step_context.py",
    "tasks/run/stop_request.py",
    "tasks/run/run_log.py",
    "tasks/run/mlflow_run.py",
    "tasks/classification/steps.py",
    "tasks/classification/preparation_steps.py",
    "tasks/housekeeping/records.py",
    "tasks/housekeeping/steps.py",
    "tasks/inference/snr/steps.py",
    "tasks/inference/steps.py",
    "tasks/recognition/steps.py",
    "tasks/splatting/steps.py",
    "tasks/training/parallel/steps.py",
    "tasks/programs/steps.py",
    "tasks/trial/steps.py",
    "tasks/vision_language/describe/steps.py",
    "tasks/vision_language/steps.py",
}  # the only tasks that know Prefect
HEAVY = {"torch", "torchvision", "cv2", "mlflow", "pandas", "albumentations", "matplotlib"}


def modules(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} is relative: say the package"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def below(name: str, allowed: set[str]) -> bool:
    return any(name == other or name.startswith(f"{other}.") for other in allowed)


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def floor(name: str) -> tuple[int, str]:
    """Return number and room of a module."""
    return next((n, room) for n, rooms in enumerate(FLOORS) for room in rooms if below(name, {room}))


def own_imports() -> Iterator[tuple[str, str]]:
    for package in PACKAGES:
        for path in modules(package):
            if path.name != "__init__.py":
                name = named(path).removesuffix(".py").replace("/", ".")
                yield from ((name, other) for other in imports(path) if below(other, set(PACKAGES)))


def test_imports_point_down():
    assert not [f"{name} imports {other}" for name, other in own_imports() if floor(other)[0] > floor(name)[0]]


def test_no_pipeline_imports_another():
    pairs = [(name, other, (floor(name)[1], floor(other)[1])) for name, other in own_imports()]
    assert not [
        f"{name} imports {other}"
        for name, other, rooms in pairs
        if {*rooms} <= {*PIPELINES} and rooms[0] != rooms[1] and rooms not in ACROSS
    ]


def rooms() -> list[Path]:
    return sorted({path.parent for package in PACKAGES for path in modules(package)})


def test_no_room_is_too_full():
    counts = {named(room): len([path for path in room.glob("*.py") if path.name != "__init__.py"]) for room in rooms()}
    assert not {room: n for room, n in counts.items() if n > MAX_MODULES}


@pytest.mark.parametrize("room", rooms(), ids=named)
def test_a_room_says_what_is_in_it_and_holds_no_code(room):
    tree = ast.parse((room / "__init__.py").read_text())
    assert ast.get_docstring(tree)
    assert len(tree.body) == 1


def test_only_the_shell_of_the_tasks_knows_prefect():
    found = {named(path) for path in modules("tasks") if any(below(name, {"prefect"}) for name in imports(path))}
    assert found == SHELL


def test_what_devices_are_does_not_depend_on_what_runs_on_them():
    assert not [path for path in modules("gpu_pools") for name in imports(path) if below(name, HEAVY - {"pandas"})]


def test_no_module_of_the_flows_has_the_name_of_a_package():
    assert not {path.stem for path in modules("flows")} & {*PACKAGES, "mlflow", "prefect"}


def loaded_by(code: str) -> set[str]:
    command = [sys.executable, "-c", f"{code}\nimport sys\nprint(*{{name.partition('.')[0] for name in sys.modules}})"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    return set(done.stdout.splitlines()[-1].split())


def test_flows_import_without_the_gpu_stack():
    assert not HEAVY & loaded_by("import flows.classification")


def test_the_command_shows_its_help_without_prefect_or_torch():
    code = "import sys\nfrom deployments.cli.app import app\napp(['--help'], standalone_mode=False)"
    assert not (HEAVY | {"prefect"}) & loaded_by(code)


def subclasses(kind: type[BaseException]) -> list[type[BaseException]]:
    return [kind, *(deeper for child in kind.__subclasses__() for deeper in subclasses(child))]


def raised() -> set[str]:
    return {
        node.exc.func.id
        for package in PACKAGES
        for path in modules(package)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and isinstance(node.exc.func, ast.Name)
    }


def test_every_error_is_raised_somewhere():
    leaves = {
        kind.__name__
        for kind in subclasses(errors.TrainyardError)
        if kind.__module__ == errors.__name__ and not kind.__subclasses__()
    }
    assert not leaves - raised()


def test_the_tree_in_the_docstring_names_every_error():
    assert errors.__doc__ is not None
    for kind in subclasses(errors.TrainyardError):
        if kind.__module__ == errors.__name__:
            assert f"{kind.__name__} " in errors.__doc__ or f"{kind.__name__}\n" in errors.__doc__
