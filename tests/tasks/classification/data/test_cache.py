import threading

import numpy as np
import pytest

from tasks.base.errors import StorageError
from tasks.classification.data.cache import ResizeCache

SIZE = 32
DIGEST, OTHER = "ab" * 16, "cd" * 16


def pixels(seed=0, size=SIZE):
    return np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)


def test_an_entry_comes_back_as_it_was_also_in_another_process(tmp_path):
    cache = ResizeCache(tmp_path / "cache", SIZE)
    assert cache.load(DIGEST) is None
    cache.store(DIGEST, pixels())
    for reader in (cache, ResizeCache(tmp_path / "cache", SIZE)):
        np.testing.assert_array_equal(reader.load(DIGEST), pixels())


def test_another_size_is_a_miss(tmp_path):
    ResizeCache(tmp_path / "cache", SIZE).store(DIGEST, pixels())
    assert ResizeCache(tmp_path / "cache", 2 * SIZE).load(DIGEST) is None


@pytest.mark.parametrize("damage", ["deleted", "cut", "emptied", "flipped", "longer", "swapped"])
def test_a_deleted_or_damaged_entry_is_none(tmp_path, damage):
    cache = ResizeCache(tmp_path / "cache", SIZE)
    cache.store(DIGEST, pixels())
    cache.store(OTHER, pixels(1))
    path = cache.entry(DIGEST)
    good = path.read_bytes()
    bad = {
        "cut": good[:-5],
        "emptied": b"",
        "flipped": good[:100] + bytes([good[100] ^ 1]) + good[101:],
        "longer": good + b"x",
        "swapped": cache.entry(OTHER).read_bytes(),
    }
    if damage == "deleted":
        path.unlink()
    else:
        path.write_bytes(bad[damage])
    later = ResizeCache(tmp_path / "cache", SIZE)
    assert later.load(DIGEST) is None
    later.store(DIGEST, pixels())
    assert path.read_bytes() == good


def test_an_entry_that_goes_while_it_is_used_is_none(tmp_path):
    cache = ResizeCache(tmp_path / "cache", SIZE)
    cache.store(DIGEST, pixels())
    cache.load(DIGEST)
    cache.entry(DIGEST).write_bytes(b"12")
    assert cache.load(DIGEST) is None
    cache.entry(DIGEST).unlink()
    assert cache.load(DIGEST) is None


def test_several_may_fill_one_folder_at_once(tmp_path):
    def fill(cache):
        for n in range(20):
            cache.store(f"{n % 5:032}", pixels(n % 5))

    caches = [ResizeCache(tmp_path / "cache", SIZE) for _ in range(3)]
    threads = [threading.Thread(target=fill, args=(cache,)) for cache in caches]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    files = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert len(files) == 5
    for n in range(5):
        np.testing.assert_array_equal(ResizeCache(tmp_path / "cache", SIZE).load(f"{n:032}"), pixels(n))


def test_a_file_in_place_of_the_folder_is_named(tmp_path):
    (tmp_path / "cache").write_text("in the way")
    cache = ResizeCache(tmp_path / "cache", SIZE)
    for work in (lambda: cache.load(DIGEST), lambda: cache.store(DIGEST, pixels())):
        with pytest.raises(StorageError, match="found a file where a folder is needed"):
            work()
