"""The picture of the devices: one lane a slot, how long a device was in use, how many waited."""

import time

import cv2
import numpy as np
import pytest

from tasks.accounts.occupation import _Bar, _drawn, _held, _lanes, _waiting, draw_occupation
from tests.tasks.accounts.test_account import account


def during(began, ended, **changes):
    return account(began=began, ended=ended, **{"asked": began, **changes})


def test_runs_at_once_have_a_lane_each_and_those_after_another_share_one():
    one, two, three = during(0, 100), during(50, 150), during(100, 200)
    kinds, bars = _lanes([one, two, three, during(0, 10, kind="inference")], 0, 200)
    assert kinds == ["training", "training", "inference"]
    assert [bar.lane for bar in bars] == [0, 1, 0, 2]


def test_a_bar_ends_with_the_picture():
    _, (bar,) = _lanes([during(-50, None, state="RUNNING")], 0, 200)
    assert (bar.begin, bar.end) == (0, 200)


def test_a_device_is_in_use_while_anybody_has_it():
    pairs = [(0, 100), (50, 150), (200, 250)]
    assert _held([_Bar(account(), 0, begin, end) for begin, end in pairs]) == 200


def test_a_run_of_seconds_has_a_width_within_the_picture():
    assert _drawn(_Bar(account(), 0, 0, 86400), 0.0, 1.0, 0.01) == (0.0, 1.0)
    assert _drawn(_Bar(account(), 0, 43200, 43205), 0.0, 1.0, 0.01) == (0.5, 0.01)
    assert _drawn(_Bar(account(), 0, 86395, 86400), 0.0, 1.0, 0.01) == (0.99, 0.01)


def test_a_run_of_seconds_at_the_right_edge_is_seen(tmp_path):
    for name, began in (("edge", 86395), ("none", 90000)):
        others = during(100, 200, kind="inference")
        draw_occupation([during(began, began + 5), others], 0, 86400, tmp_path / f"{name}.png", "a title")
    image = cv2.imread(str(tmp_path / "edge.png")).astype(int)
    blue = np.abs(image - (168, 120, 72)).sum(axis=2) < 60  # the first colour of owners, as OpenCV has it
    columns = np.flatnonzero(blue[: image.shape[0] // 2].any(axis=0))
    assert columns[-1] - columns[0] > 1000  # also at the right


def test_those_who_wait_are_counted():
    at_once = during(70.6, 90, asked=70)
    runs = [during(50, 90, asked=10), during(60, 90, asked=20), during(60, 90), at_once]
    times, counts = _waiting(runs, 0, 100)
    assert dict(zip(times, counts, strict=True)) == {0: 0, 10: 1, 20: 2, 50: 1, 60: 0, 100: 0}


@pytest.mark.parametrize("n_runs", [0, 1, 200])
def test_a_picture_of_many_runs_is_drawn_in_seconds(tmp_path, n_runs):
    names = ["=1+1", "$x^$", "a" * 300, "line\nbreak"]
    kinds = {"training": "cuda:0", "inference": "cuda:1", "preparation": "cpu"}
    runs = [
        during(
            *(300 * n, 300 * n + 200 + 90 * (n % 7)),
            asked=300 * n - 900,
            run_name=names[n % 4],
            owner=f"o{n % 12}",
            kind=kind,
            device=device,
            state="FAILED" if n % 9 == 0 else "COMPLETED",
            ran_s=20.0 if n % 5 == 0 else 200.0,
        )
        for n, (kind, device) in ((n, list(kinds.items())[n % 3]) for n in range(n_runs))
    ]
    begun = time.monotonic()
    draw_occupation(runs, 0, 86400, tmp_path / "a.png", "a title")
    assert time.monotonic() - begun < 15
    image = cv2.imread(str(tmp_path / "a.png"))
    assert image.shape[1] > 1200
    assert (tmp_path / "a.png").stat().st_size < 200_000
