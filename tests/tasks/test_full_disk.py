"""Every kind of file that a run makes says in one sentence that the disk is full, and leaves nothing half written."""

import json
import shutil
import subprocess
import sys

import pytest

from tests.runners import output_of

MOUNTS = [shutil.which("unshare") or "false", "-rm"]
pytestmark = pytest.mark.skipif(
    subprocess.run([*MOUNTS, "true"], capture_output=True, check=False).returncode != 0,
    reason="needs a name space of its own to mount a small disk in",
)
KINDS = {
    *("checkpoint of a training", "JSON", "CSV", "cache", "split", "augmented copies"),
    *("cropped images", "spectrogram", "journal", "outbox", "PLY", "SPZ", "glb", "viewer", "ZIP", "video"),
    *("depth maps", "photographs", "images and masks of a model", "CSV and Parquet of predictions"),
    *("report and its Parquet", "figure", "model to be served", "SQLite", "folder of results", "log"),
}
WHOLE_OR_ABSENT = {
    *("checkpoint of a training", "JSON", "CSV", "PLY", "SPZ", "glb", "viewer", "ZIP", "video"),
    *("photographs", "figure", "folder of results"),
}
BESIDE = {"job.json", "known.json", "colmap.log"}
"""What was asked and said, beside the images of a model."""


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """Return kind -> (room in KiB, class of the error, message, files left), for each room."""
    disk, sources = tmp_path_factory.mktemp("disk"), tmp_path_factory.mktemp("sources")
    command = 'mount -t tmpfs -o size=1m tmpfs "$1" && exec "$3" -m tests.tasks.full_disk_runner "$1" "$2"'
    said, warned = output_of([*MOUNTS, "sh", "-c", command, "sh", disk, sources, sys.executable])
    found: dict[str, list[list]] = {}
    for kind, *rest in map(json.loads, said.splitlines()):
        found.setdefault(kind, []).append(rest)
    assert set(found) == KINDS
    return found, warned


@pytest.mark.parametrize("kind", sorted(KINDS - {"log", "SQLite"}))
def test_a_full_disk_is_named(ended, kind):
    for room, error, message, left in ended[0][kind]:
        assert (error, message[:29]) == ("StorageError", "disk full while writing /tmp/"[:29]), (room, message)
        assert message.endswith(": free room there")
        assert "\n" not in message
        if kind in WHOLE_OR_ABSENT:
            assert left == []
        if kind == "images and masks of a model":
            assert set(left) <= BESIDE


def test_a_new_database_is_named_where_it_does_not_fit(ended):
    assert ended[0]["SQLite"][0][1] == "StorageError"  # an empty one needs little


def test_a_log_that_does_not_fit_stops_no_run_and_says_so_once(ended):
    outcomes, said = ended
    assert [error for _, error, _, _ in outcomes["log"]] == ["written"] * 3
    assert said.count("run.log: No space left on device") == 3
    assert "Traceback" not in said
