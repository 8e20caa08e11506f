"""Where Triton does not run, that is said once and the fit goes on by torch's own operations."""

import ast
import re
import subprocess
from pathlib import Path

import pytest
import torch

from tasks.splatting.render import triton_colors, triton_parts

GPU = torch.device("cuda")
ROOT = Path(__file__).parents[4]


@pytest.fixture
def anew():
    triton_parts._runs.cache_clear()
    yield
    triton_parts._runs.cache_clear()


def faults():
    from triton.errors import TritonError

    return [
        subprocess.CalledProcessError(1, ["gcc"]),
        TritonError("ptxas does not know sm_999"),
        RuntimeError("Failed to find C compiler"),
        OSError("no such file"),
        ImportError("no module"),
    ]


@pytest.mark.parametrize("fault", faults(), ids=lambda fault: type(fault).__name__)
def test_what_triton_raises_is_told_and_torch_does_the_work(monkeypatch, caplog, anew, fault):
    def fail(*_):
        raise fault

    zeros = torch.zeros
    monkeypatch.setattr(triton_colors, "activated", fail)
    monkeypatch.setattr(torch, "zeros", lambda *shape, **options: zeros(*shape))
    assert triton_parts.triton_part("loss.triton_loss", GPU) is None
    assert triton_parts.triton_part("fit.triton_steps", GPU) is None
    assert len(caplog.records) == 1
    assert type(fault).__name__ in caplog.text
    assert "gcc and Python's headers" in caplog.text


def test_a_cpu_has_kernels_of_its_own():
    assert triton_parts.triton_part("loss.triton_loss", torch.device("cpu")) is None


def uses():
    """Yield each place that asks for a module: its path, the module, what is used of it until the next place."""
    for path in sorted((ROOT / "tasks").rglob("*.py")):
        _, *found = re.split(r'triton_part\("([\w.]+)"', path.read_text())
        for name, text in zip(found[::2], found[1::2], strict=True):
            yield path.relative_to(ROOT).as_posix(), name, set(re.findall(r"\bfused\.(\w+)", text))


USES = list(uses())


@pytest.mark.parametrize(("path", "name", "used"), USES)
def test_what_is_asked_for_by_name_is_there(path, name, used):
    """The modules are imported on a GPU only, so neither a CPU nor the type checker meets a wrong name."""
    module = ROOT / "tasks" / "splatting" / Path(*name.split(".")).with_suffix(".py")
    assert module.is_file(), path
    defined = {node.name for node in ast.parse(module.read_text()).body if hasattr(node, "name")}
    assert used <= defined, path


def test_the_names_are_found():
    assert len(USES) >= 5
