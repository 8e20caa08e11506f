"""The least free space is what is set, else the lesser of 5 % and 10 GB; sizes are read and written."""

import pytest

from gpu_pools.placement.disk import (
    MIN_FREE,
    Disk,
    Need,
    check_fits,
    least_free,
    parse_size,
    read_disk,
    size_text,
)
from tasks.base.errors import ConfigError, StorageError

GB = 10**9


@pytest.mark.parametrize(
    ("text", "total", "least"),
    [
        ("", 100 * GB, 5 * GB),
        ("", 1000 * GB, 10 * GB),
        ("0", 100 * GB, 0),
        ("2%", 100 * GB, 2 * GB),
        ("1.5 GB", 100 * GB, 3 * GB // 2),
        ("500MB", 100 * GB, GB // 2),
    ],
)
def test_how_much_has_to_be_free(monkeypatch, text, total, least):
    monkeypatch.setenv(MIN_FREE, text)
    assert least_free(total) == least


@pytest.mark.parametrize("text", ["much", "-1GB", "5", "101%%", "GB"])
def test_a_setting_that_is_none_is_refused(monkeypatch, text):
    monkeypatch.setenv(MIN_FREE, text)
    with pytest.raises(ConfigError, match=f"found TRAINYARD_MIN_FREE='{text}', need a size such as 10GB"):
        least_free(GB)


def test_sizes_are_read_and_written():
    assert parse_size("1.5TB") == 1_500 * GB
    assert [size_text(n) for n in (12, 1500, 2_340_000, 10 * GB)] == ["12 bytes", "1.5 kB", "2.3 MB", "10.0 GB"]
    with pytest.raises(ConfigError, match="found size '5', need a number with kB, MB, GB or TB"):
        parse_size("5")


def test_the_sentence_has_both_numbers_and_the_way_out():
    disk = Disk("/yard", 3 * GB, 10 * GB)
    assert disk.low
    assert "3.0 GB free at /yard, 10.0 GB needed for a run to start (TRAINYARD_MIN_FREE)" in disk.sentence()


def test_the_disk_of_a_folder_that_is_not_there_yet_is_that_above_it(tmp_path):
    found = read_disk(tmp_path / "a" / "b")
    assert found.path == str(tmp_path / "a" / "b")
    assert found.free > 0


def test_what_fits_is_said_and_what_does_not_is_refused_with_both_numbers(tmp_path, monkeypatch):
    monkeypatch.setenv(MIN_FREE, "1kB")
    said = check_fits(Need(2_000_000, "5 copies"), tmp_path / "new")
    assert said.startswith("needs about 2.0 MB of disk for 5 copies; ")
    assert check_fits(Need(0, ""), tmp_path).startswith("needs next to no disk; ")
    with pytest.raises(StorageError, match=r"1000.0 TB of disk for 5 copies, found [\d.]+ [GT]B free at .*new"):
        check_fits(Need(10**15, "5 copies"), tmp_path / "new")


def test_what_has_to_stay_free_is_not_taken(tmp_path, monkeypatch):
    monkeypatch.setenv(MIN_FREE, "9000TB")
    with pytest.raises(StorageError, match="of which 9000.0 TB have to stay free"):
        check_fits(Need(1, "a copy"), tmp_path)
