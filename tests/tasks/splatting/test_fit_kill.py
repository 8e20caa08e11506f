"""kill -9 at any image that is drawn and start again: the same Gaussians, bit for bit, every measurement once."""

import json
import random
from pathlib import Path

import pytest
import torch

from tests.runners import ends_of


def figures(folder: Path) -> list[dict[str, float]]:
    rows = json.loads((folder / "finished.json").read_text())["history"]
    timed = {"seconds", "steps_per_s", "memory_bytes", "timestamp_ms"}
    return [{key: value for key, value in row.items() if key not in timed} for row in rows]


def check_same(tmp_path: Path, strategy: str, kills: list[int]) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    killed.mkdir()
    (killed / ".splat.ckpt.torn").write_bytes(b"what a kill leaves")
    runs = {str(whole): [0], str(killed): [*kills, 0]}
    ends = ends_of("tests.tasks.splatting.fit_kill_runner", tmp_path / "scene", strategy, runs=runs, timeout=280)
    assert ends == [0, *[9] * len(kills), 0]
    assert sorted(path.name for path in killed.iterdir()) == sorted(path.name for path in whole.iterdir())
    ours, theirs = (torch.load(folder / "gaussians.pt", weights_only=True)["splats"] for folder in (killed, whole))
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert torch.equal(ours[name], theirs[name]), name
    assert figures(killed) == figures(whole)
    for name in ("exposures.json", "cameras_refined.json"):
        assert (killed / name).read_text() == (whole / name).read_text()


def test_two_kills_at_random_pictures_change_nothing(tmp_path):
    seed = random.randrange(10**6)
    print(f"seed {seed}")  # pytest shows it when the test fails
    # Each attempt gets at most 25 steps further, so that all end before the last one.
    check_same(tmp_path, "mcmc", [random.Random(seed + i).randint(1, 28) for i in range(2)])


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("strategy", ["mcmc", "default"])
def test_many_kills_change_nothing(tmp_path, strategy, seed):
    # More of them early: those before the first saving start anew.
    check_same(tmp_path, strategy, [random.Random(100 * seed + i).choice([1, 5, 20, 24, 26, 28]) for i in range(5)])
