"""Where images are kept: the decision by costs and room, and the measurement on real files."""

import numpy as np
import pytest
from PIL import Image

from tasks.base.memory import free_memory
from tasks.classification.data.cache import ResizeCache
from tasks.classification.data.keeping import CacheSpace, Costs, choose, decide, measure
from tasks.classification.data.subset_images import SubsetImages
from tasks.images.images import content_digest

MS = 1e-3
CHEAP = Costs([0.8 * MS] * 3, [0.3 * MS] * 3, [0.05 * MS] * 3)
DEAR = Costs([9 * MS] * 3, [0.5 * MS] * 3, [0.05 * MS] * 3)
FOUND = Costs([9 * MS], [0.5 * MS], [0.05 * MS] * 3, n_found=2)
WIDE, TIGHT = CacheSpace(10, 1000, 1000), CacheSpace(10, 1000, 12)
SMALL, NOTHING = CacheSpace(10, 12, 1000), CacheSpace(10, 12, 12)


@pytest.mark.parametrize(
    ("costs", "room", "n_epochs", "keep"),
    [
        (CHEAP, WIDE, 10, "memory"),
        (CHEAP, WIDE, 1, "nowhere"),
        (CHEAP, SMALL, 10, "disk"),
        (CHEAP, NOTHING, 10, "nowhere"),
        (DEAR, WIDE, 10, "disk"),
        (DEAR, WIDE, 1, "disk"),
        (DEAR, TIGHT, 10, "memory"),
        (DEAR, NOTHING, 10, "nowhere"),
        (FOUND, WIDE, 1, "disk"),
        (FOUND, NOTHING, 1, "disk"),
    ],
)
def test_cheap_pictures_stay_in_memory_and_dear_ones_on_disk_where_there_is_room(costs, room, n_epochs, keep):
    assert decide(costs, room, n_epochs) == keep


@pytest.fixture
def paths(tmp_path):
    rng = np.random.default_rng(0)
    found = [tmp_path / f"{n}.png" for n in range(5)]
    for path in found:
        Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(path)
    return found


def test_a_measurement_times_each_picture_and_leaves_nothing(paths, tmp_path):
    costs = measure(paths, [None] * 5, ResizeCache(tmp_path / "cache", 32))
    assert [len(costs.decode), len(costs.write), len(costs.read), costs.n_found] == [5, 5, 5, 0]
    assert all(seconds > 0 for seconds in (*costs.decode, *costs.write, *costs.read))
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def test_a_measurement_ends_in_time(paths, tmp_path, monkeypatch):
    monkeypatch.setattr("tasks.classification.data.keeping._BUDGET_S", 0)
    assert len(measure(paths, [None] * 5, ResizeCache(tmp_path / "cache", 32)).decode) == 1


def test_entries_of_an_earlier_run_are_used_and_the_line_says_so(paths, tmp_path):
    digests = [content_digest(path.read_bytes()) for path in paths]
    cache = ResizeCache(tmp_path / "cache", 32)
    assert choose(paths, digests, cache, n_images=5, n_epochs=3).why.startswith("cache: memory: decoding takes ")
    for index in range(5):
        SubsetImages(paths, digests, cache, "disk").read(index)
    choice = choose(paths, digests, ResizeCache(tmp_path / "cache", 32), n_images=15_000, n_epochs=3)
    assert choice.keep == "disk"
    assert choice.why.startswith("cache: disk: most of the entries are there, one is read in ")
    assert " ms; 15,000 images, 0.0 GB of " in choice.why


def group(folder, limit, current, file):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.max").write_text(f"{limit}\n")
    (folder / "memory.current").write_text(f"{current}\n")
    (folder / "memory.stat").write_text(f"anon 1\nactive_file {file}\ninactive_file 0\n")


def test_free_memory_is_what_machine_and_control_groups_leave(tmp_path, monkeypatch):
    whole = free_memory()
    assert whole > 2**20
    monkeypatch.setattr("tasks.base.memory._CGROUPS", tmp_path)
    group(tmp_path, 9000, 6000, 1000)
    assert free_memory() == 4000
    group(tmp_path, "max", 6000, 1000)
    assert free_memory() == pytest.approx(whole, rel=0.5)
