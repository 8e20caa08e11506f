"""Temporary files of the dead go, the cache keeps its size, and what a run uses stays."""

import os
import time

import pytest

from gpu_pools.process import run_setup
from tasks.classification.data.cache import ResizeCache
from tasks.housekeeping.params import KeepParams
from tasks.housekeeping.rounds import go_round
from tasks.store.datasets import hold

HOUR = 3600.0


def clean(hours, **keep):
    return go_round(KeepParams(records=None, checkpoints=None, **keep), time.time() + hours * HOUR, dry_run=False)


def half_written(folder):
    """Leave what a killed process leaves, and what only looks like it."""
    (folder / "tmp").mkdir()
    (folder / "tmp" / "a").write_text("a")
    (folder / "training" / ".best.pt.abcd1234").write_text("half")
    (folder / "split.tmp").mkdir()
    return {folder / "tmp", folder / "training" / ".best.pt.abcd1234", folder / "split.tmp"}


def test_what_a_dead_run_was_writing_goes_after_a_day(yard):
    run_id = yard.run("FAILED")
    left = half_written(yard.home / "runs" / run_id)
    clean(23)
    assert all(path.exists() for path in left)
    receipt = clean(25)
    assert not any(path.exists() for path in left)
    assert (yard.home / "runs" / run_id / "training" / "best.pt").exists()
    assert {entry.rule for entry in receipt.entries} == {"temporary"}


@pytest.mark.parametrize("how", ["running", "held", "pinned"])
def test_what_a_living_run_writes_stays(yard, how):
    run_id = yard.run("RUNNING" if how == "running" else "FAILED", tags=["pinned"] if how == "pinned" else [])
    left = half_written(yard.home / "runs" / run_id)
    lock = run_setup.lock_run(run_id) if how == "held" else None
    clean(25)
    assert all(path.exists() for path in left)
    if lock is not None:
        os.close(lock)


def fill(yard, ages_h):
    """Put files of 100 kB into the cache that were used so many hours ago; return them."""
    now = time.time()
    found = []
    for number, age in enumerate(ages_h):
        path = yard.home / "cache" / f"resize-v1-{number % 2}" / "aa" / f"{number:032x}.rgb"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * 100_000)
        os.utime(path, (now - age * HOUR, now - age * HOUR))
        found.append(path)
    return found


def test_of_a_cache_that_is_too_large_the_least_recently_used_goes(yard):
    one, two, three, four = fill(yard, [5, 9, 3, 7])
    receipt = clean(0, cache="0.25MB")
    assert [path.exists() for path in (one, two, three, four)] == [True, False, True, False]
    assert [entry.what for entry in receipt.entries] == ["cache/resize-v1-1: 2 files"]
    assert receipt.bytes >= 200_000


def test_what_was_used_in_the_last_hour_stays_whatever_the_size(yard):
    old, new = fill(yard, [2, 0.5])
    clean(0, cache="0.001MB")
    assert (old.exists(), new.exists()) == (False, True)


def test_an_entry_that_is_read_counts_as_used(yard, tmp_path):
    import numpy as np

    cache = ResizeCache(tmp_path / "cache", 64)
    for digest in ("a" * 32, "b" * 32):
        cache.store(digest, np.zeros((64, 64, 3), np.uint8))
        os.utime(cache.entry(digest), (0, 0))
    assert ResizeCache(tmp_path / "cache", 64).load("a" * 32) is not None
    clean(0, cache="0.02MB")
    assert cache.entry("a" * 32).exists()
    assert not cache.entry("b" * 32).exists()


def data_set(yard, digit: str, age_h: float):
    """Put a data set of 200 kB on this host that was used so many hours ago; return its folder."""
    folder = yard.home / "datasets" / (digit * 64)
    (folder / "train").mkdir(parents=True)
    for name in ("a.tmp", "train/.b.abcdefgh"):  # what it holds is nobody's leftover
        (folder / name).write_bytes(b"x" * 100_000)
    os.utime(folder, (time.time() - age_h * HOUR,) * 2)
    return folder


def test_a_data_set_goes_whole_and_the_one_that_a_run_works_with_stays(yard):
    used, old, new = (data_set(yard, digit, age) for digit, age in (("a", 90), ("b", 50), ("c", 40)))
    (entry,) = fill(yard, [60])
    hold(used)  # as the process of a run does, to its end
    receipt = clean(0, cache="0.45MB")
    assert [path.exists() for path in (used, old, new, entry)] == [True, False, True, False]
    assert [path.name for path in used.rglob("*") if path.is_file()] == ["a.tmp", ".b.abcdefgh"]
    assert {entry.what for entry in receipt.entries} == {"cache/resize-v1-0: 1 file", "datasets: 1 file"}
    clean(0, cache="0.001MB")
    assert used.exists()
