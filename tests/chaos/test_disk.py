"""On a disk that is too full a real worker starts only housekeeping, says why, and goes on once there is room."""

import os
import subprocess
import time

import pytest

from deployments.services.service import free_port
from tests.chaos.yard import yard

pytestmark = [pytest.mark.yard, pytest.mark.timeout(600)]
MB = 10**6


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 400 MB, in memory."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400M", "tmpfs", disk], check=False).returncode:
        pytest.skip("this user may not mount a file system")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


def test_runs_wait_for_room_which_housekeeping_makes(small_disk):
    cached = small_disk / "cache" / "resize-v1-224" / "aa" / "old.rgb"
    cached.parent.mkdir(parents=True)
    cached.write_bytes(b"x" * 250 * MB)
    os.utime(cached, (time.time() - 7200,) * 2)
    with yard(small_disk, free_port(), TRAINYARD_MIN_FREE="200MB") as made:
        waiting = made.hold("cuda:0.training", 0.1)
        made.until(lambda: made.state(waiting)["name"] == "Waiting", 60, "the run says why it waits")
        said = made.state(waiting)["message"]
        assert f"MB free at {small_disk}, 200.0 MB needed for a run to start (TRAINYARD_MIN_FREE)" in said
        made.deploy("housekeeping", "flows.housekeeping.housekeeping", "cpu.housekeeping")
        tidy = made.submit("housekeeping", "cpu.housekeeping", {"keep": {"cache": "1MB"}})
        made.until(lambda: made.state(tidy)["type"] == "COMPLETED", 120, "housekeeping ends")
        assert not cached.exists()
        made.until(lambda: made.state(waiting)["type"] == "COMPLETED", 120, "the run that waited ends")
