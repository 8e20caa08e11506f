"""Where Triton does not run, that is said once and the fit goes on by torch's own operations."""

import subprocess

import pytest
import torch

from tasks.splatting.render import triton_colors, triton_parts

GPU = torch.device("cuda")


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
