"""`make help` tells every target."""

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_help_has_a_line_on_every_target():
    declared = re.findall(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    done = subprocess.run(
        ["make", "--no-print-directory", "help"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    told = dict(line.split(maxsplit=1) for line in done.stdout.splitlines())
    assert set(told) == {target for line in declared for target in line.split()}
