import os
import threading

import numpy as np
import pytest
from PIL import Image

from tasks.classification.cache import ResizeCache, read_entry
from tasks.classification.decoding import resize_rgb
from tasks.classification.images import read_rgb
from tasks.errors import DatasetError, ImageError, StorageError

SIZE = 32


def save(path, seed=0):
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (50, 70, 3), dtype=np.uint8)).save(path)
    return path


def prepare(cache, *paths, n_workers=2):
    return [entry for _, entry in cache.prepare(paths, n_workers)]


def test_an_entry_holds_the_shrunk_picture(tmp_path):
    path = save(tmp_path / "a.png")
    (entry,) = prepare(ResizeCache(tmp_path / "cache", SIZE), path)
    np.testing.assert_array_equal(read_entry(entry.path, SIZE), resize_rgb(read_rgb(path), SIZE))


def test_entries_come_in_the_order_of_the_paths(tmp_path):
    paths = [save(tmp_path / f"{n}.png", seed=n) for n in range(30)]
    cache = ResizeCache(tmp_path / "cache", SIZE)
    found = list(cache.prepare(paths, n_workers=4))
    assert [index for index, _ in found] == list(range(30))
    for path, (_, entry) in zip(paths, found, strict=True):
        np.testing.assert_array_equal(read_entry(entry.path, SIZE), resize_rgb(read_rgb(path), SIZE))


def test_a_second_time_and_a_touched_date_and_another_name_are_hits(tmp_path):
    path = save(tmp_path / "a.png")
    cache = ResizeCache(tmp_path / "cache", SIZE)
    assert not prepare(cache, path)[0].hit
    os.utime(path, (1, 1))
    (tmp_path / "b.png").write_bytes(path.read_bytes())
    assert [entry.hit for entry in prepare(cache, path, tmp_path / "b.png")] == [True, True]


def test_a_changed_pixel_is_a_miss_even_with_the_old_date(tmp_path):
    path = save(tmp_path / "a.png")
    before = path.stat()
    cache = ResizeCache(tmp_path / "cache", SIZE)
    (old,) = prepare(cache, path)
    rgb = np.asarray(Image.open(path)).copy()
    rgb[0, 0] ^= 255
    Image.fromarray(rgb).save(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    (new,) = prepare(cache, path)
    assert not new.hit
    assert new.path != old.path


def test_another_size_is_a_miss(tmp_path):
    path = save(tmp_path / "a.png")
    prepare(ResizeCache(tmp_path / "cache", SIZE), path)
    (entry,) = prepare(ResizeCache(tmp_path / "cache", SIZE * 2), path)
    assert not entry.hit
    assert read_entry(entry.path, SIZE * 2).shape == (64, 64, 3)


@pytest.mark.parametrize("damage", ["deleted", "cut", "emptied", "flipped", "longer", "swapped"])
def test_a_deleted_or_damaged_entry_is_made_again(tmp_path, damage):
    path, other = save(tmp_path / "a.png"), save(tmp_path / "b.png", seed=1)
    cache = ResizeCache(tmp_path / "cache", SIZE)
    entry, second = prepare(cache, path, other)
    good = entry.path.read_bytes()
    bad = {
        "cut": good[:-5],
        "emptied": b"",
        "flipped": good[:100] + bytes([good[100] ^ 1]) + good[101:],
        "longer": good + b"x",
        "swapped": second.path.read_bytes(),
    }
    if damage == "deleted":
        entry.path.unlink()
    else:
        entry.path.write_bytes(bad[damage])
    (again,) = prepare(cache, path)
    assert not again.hit
    assert again.path.read_bytes() == good


def test_a_bad_image_is_named_and_leaves_nothing(tmp_path):
    (tmp_path / "bad.jpg").write_bytes(b"no picture")
    with pytest.raises(ImageError, match=r"bad\.jpg$"):
        prepare(ResizeCache(tmp_path / "cache", SIZE), tmp_path / "bad.jpg")
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def test_two_caches_may_fill_one_folder_at_once(tmp_path):
    paths = [save(tmp_path / f"{n}.png", seed=n % 5) for n in range(20)]
    caches = [ResizeCache(tmp_path / "cache", SIZE) for _ in range(3)]
    threads = [threading.Thread(target=prepare, args=(cache, *paths)) for cache in caches]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    files = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert len(files) == 5
    assert all(entry.hit for entry in prepare(caches[0], *paths))


def test_stopping_early_leaves_a_cache_that_goes_on(tmp_path):
    paths = [save(tmp_path / f"{n}.png", seed=n) for n in range(40)]
    cache = ResizeCache(tmp_path / "cache", SIZE)
    some = cache.prepare(paths, n_workers=2)
    next(some)
    some.close()
    assert len(prepare(cache, *paths)) == 40


def test_reading_a_lost_or_cut_entry_names_it(tmp_path):
    (tmp_path / "cut.rgb").write_bytes(b"12")
    with pytest.raises(DatasetError, match=r"2 bytes, need 3072: .*cut\.rgb$"):
        read_entry(tmp_path / "cut.rgb", SIZE)
    with pytest.raises(DatasetError, match=r"No such file.*gone\.rgb$"):
        read_entry(tmp_path / "gone.rgb", SIZE)


def test_a_file_in_place_of_the_folder_is_named(tmp_path):
    (tmp_path / "cache").write_text("in the way")
    with pytest.raises(StorageError, match="found a file where a folder is needed"):
        prepare(ResizeCache(tmp_path / "cache", SIZE), save(tmp_path / "a.png"))
