"""What a process keeps of the memory that it frees."""

import subprocess
import sys

CODE = """
import sys
import psutil
from tasks.base.memory import keep_freed_memory

if sys.argv[1] == "keep":
    keep_freed_memory()
before = psutil.Process().memory_info().rss
large = [b"x" * (20 << 20) for _ in range(8)]
del large
print((psutil.Process().memory_info().rss - before) >> 20)
"""


def mib_left(how: str) -> int:
    """Return what is resident of 160 MiB that were used and freed."""
    command = [sys.executable, "-c", CODE, how]
    return int(subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout)


def test_a_process_that_works_in_batches_keeps_what_it_frees():
    assert mib_left("keep") > 150
    assert mib_left("as it is") < 10
