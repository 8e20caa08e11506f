"""Which device a trial has, and what the page of its run shows."""

import pytest

from tasks.base.errors import GpuError
from tasks.trial.report import CheckResult, Place, Report, checked
from tasks.trial.steps import markdown, place_of


def test_a_simulated_gpu_is_tried_on_the_cpu_and_the_slot_decides(monkeypatch):
    monkeypatch.setenv("TRAINYARD_SIMULATE_GPUS", "2")
    for name in ("TRAINYARD_DEVICE", "TRAINYARD_ON", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    assert place_of("cuda:1") == Place("cuda:1", "simulated GPU 1", "GPU-simulated-1", "cpu")
    assert place_of("cpu") == Place("cpu", "the CPU", "cpu", "cpu")
    with pytest.raises(GpuError, match="found no device 'cuda:7'"):
        place_of("cuda:7")
    slot = {"TRAINYARD_DEVICE": "cuda", "TRAINYARD_ON": "cuda:1", "CUDA_VISIBLE_DEVICES": "GPU-simulated-1"}
    for name, value in slot.items():
        monkeypatch.setenv(name, value)
    assert place_of("boxb/cuda:1").uuid == "GPU-simulated-1"  # as it was submitted


def test_the_page_has_a_line_for_each_check():
    rows = [CheckResult("a", "ok", "1 | 2"), checked("b", False, "3", "mend it")]
    text = markdown(Report(Place("cpu", "the CPU", "cpu", "cpu"), 3.0, rows))
    assert text.splitlines()[-2:] == ["| a | 1 / 2 | ok |  |", "| b | 3 | failed | mend it |"]
    assert text.startswith("cpu (the CPU): 1 of 2 checks failed: b")
