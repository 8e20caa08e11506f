"""What is told of a stranger's process on a GPU."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from gpu_pools.placement.intruders import command
from gpu_pools.placement.probe import GpuProcess


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (["train.py", "--key", "secret"], "python train.py"),
        (["-P", "-u", "train.py"], "python train.py"),
        (["-u", "-m", "train"], "python train"),
        (["-c", "import time; time.sleep(60)"], "python"),
    ],
)
def test_program_and_script_are_told_and_nothing_more(tmp_path, words, shown):
    (tmp_path / "train.py").write_text("import time\ntime.sleep(60)\n")
    process = subprocess.Popen([sys.executable, *words], cwd=tmp_path, stderr=subprocess.DEVNULL)
    try:
        # The kernel hands the new program's words over a moment after Popen has returned.
        while not Path(f"/proc/{process.pid}/cmdline").read_bytes():
            time.sleep(0.01)
        assert command(GpuProcess(process.pid, "ben", "python", 900)) == shown
    finally:
        process.kill()
        process.wait()
