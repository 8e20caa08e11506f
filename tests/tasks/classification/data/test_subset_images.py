"""Images decoded when they are asked for: the same pixels wherever they are kept, and no file read for nothing."""

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from tasks.base.errors import DatasetError, ImageError
from tasks.classification.data.cache import ResizeCache
from tasks.classification.data.digests import known_digests, write_digests
from tasks.classification.data.subset_images import SubsetImages
from tasks.images.decoding import resize_rgb
from tasks.images.images import content_digest, read_rgb

SIZE = 32
KEEPS = ["memory", "disk", "nowhere"]


def save(path, seed=0):
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (50, 70, 3), dtype=np.uint8)).save(path)
    return path


@pytest.fixture
def paths(tmp_path):
    return [save(tmp_path / f"{n}.png", seed=n) for n in range(30)]


def pictures(paths, keep, digests=None):
    cache = ResizeCache(paths[0].parent / "cache", SIZE)
    return SubsetImages(paths, digests or [None] * len(paths), cache, keep)


@pytest.mark.parametrize("keep", KEEPS)
def test_pixels_are_the_same_wherever_they_are_kept_and_how_often_they_are_asked_for(paths, keep):
    wanted = [resize_rgb(read_rgb(path, min_side=SIZE), SIZE) for path in paths]
    ours = pictures(paths, keep)
    for _ in range(2):
        with ThreadPoolExecutor(4) as pool:
            for found, truth in zip(pool.map(ours.read, range(30)), wanted, strict=True):
                np.testing.assert_array_equal(found, truth)


@pytest.mark.parametrize(("keep", "n_reads"), [("memory", 1), ("disk", 1), ("nowhere", 3)])
def test_a_file_is_read_again_only_where_nothing_is_kept(paths, keep, n_reads, monkeypatch):
    read = []
    monkeypatch.setattr(
        "tasks.classification.data.subset_images.read_bytes", lambda path: read.append(path) or path.read_bytes()
    )
    ours = pictures(paths, keep)
    for _ in range(3):
        ours.read(7)
    assert read == [paths[7]] * n_reads


def test_a_later_run_finds_entries_by_content_whatever_the_file_is_called(paths, tmp_path, monkeypatch):
    pictures(paths, "disk").read(0)
    (tmp_path / "other.png").write_bytes(paths[0].read_bytes())
    os.utime(paths[0], (1, 1))
    monkeypatch.setattr("tasks.classification.data.subset_images.shrunk", lambda *_: pytest.fail("decoded again"))
    pictures([tmp_path / "other.png", paths[0]], "disk").read(0)
    pictures(paths, "disk").read(0)


def test_a_damaged_entry_is_made_again(paths):
    first = pictures(paths, "disk")
    wanted = first.read(0).copy()
    (entry,) = [path for path in (paths[0].parent / "cache").rglob("*.rgb")]
    entry.write_bytes(b"\x00" * entry.stat().st_size)
    np.testing.assert_array_equal(pictures(paths, "disk").read(0), wanted)
    entry.unlink()
    np.testing.assert_array_equal(first.read(0), wanted)


def test_digests_are_learnt_on_the_way_and_the_rest_is_looked_at_when_asked_for(paths):
    ours = pictures(paths, "nowhere")
    ours.read(3)
    assert ours.unknown() == [n for n in range(30) if n != 3]
    assert not ours.digests_known
    assert ours.digests() == [content_digest(path.read_bytes()) for path in paths]
    assert ours.digests_known


@pytest.mark.parametrize("keep", KEEPS)
def test_a_bad_picture_is_named_and_leaves_nothing(tmp_path, keep):
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    with pytest.raises(ImageError, match=r"bad\.jpg$"):
        pictures([tmp_path / "bad.jpg"], keep).read(0)
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def test_a_file_that_changes_in_a_training_is_an_error_and_not_other_pixels(paths):
    ours = pictures(paths, "nowhere")
    ours.read(0)
    save(paths[0], seed=99)
    with pytest.raises(DatasetError, match=r"the file has changed since .*0\.png$"):
        ours.read(0)


def test_the_table_of_digests_is_believed_as_long_as_size_and_date_are_the_same(paths, tmp_path):
    wanted = [content_digest(path.read_bytes()) for path in paths]
    assert known_digests(tmp_path, paths) == [None] * 30
    write_digests(tmp_path, {path.name: digest for path, digest in zip(paths, wanted, strict=True)})
    assert known_digests(tmp_path, paths) == wanted
    os.utime(paths[1], (1, 1))
    paths[2].write_bytes(b"another")
    extra = save(tmp_path / "new.png")
    assert known_digests(tmp_path, [*paths, extra]) == [wanted[0], None, None, *wanted[3:], None]


def test_a_damaged_table_of_digests_is_named(paths, tmp_path):
    (tmp_path / "digests.json").write_text("[1]")
    with pytest.raises(DatasetError, match=r"found a list, need a table of digests: .*digests\.json"):
        known_digests(tmp_path, paths)
