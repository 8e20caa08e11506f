"""What is to be measured on a GPU runs, at toy size on a CPU: a machine with one is no place to find out."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.gpu import decoding, splats
from benchmarks.gpu.prepare import made_scene
from tasks.splatting.render.cpu_rasterizer import CpuRasterizer

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    scene = made_scene(tmp_path_factory.mktemp("scene"), 12, 96)
    return splats.Bench(scene, torch.device("cpu"), CpuRasterizer(), rehearse=True)


@pytest.mark.parametrize("part", splats.PARTS)
def test_splats_are_measured(bench, part):
    found = splats.PARTS[part](bench)
    assert found
    assert all(value is not None for name, value in found.items() if name != "peak_gib")


def test_decoding_is_measured(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["decoding.py", "--rehearse"])
    monkeypatch.setattr(decoding, "WIDTH", 450)
    monkeypatch.setattr(decoding, "HEIGHT", 300)
    decoding.main()
    found = json.loads(capsys.readouterr().out)
    assert found["ratio"] > 0
    assert found["mean_off"] < 10


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_all_parts_are_rehearsed_and_none_fails(tmp_path):
    command = [sys.executable, ROOT / "benchmarks" / "gpu" / "run.py", tmp_path / "out", "--rehearse"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=3600)
    assert done.returncode == 0, done.stdout[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert not {name: result for name, result in found.items() if "failed" in result or "not run" in result}
    assert found["fight"]["refused"]
    assert found["fight"]["third_completed"]
    assert found["resume"]["equal"]
