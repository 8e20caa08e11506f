"""Every command of the section on accounts works, and its example reads the sheet."""

import os
import re
import subprocess
import sys
from pathlib import Path

PAGE = (Path(__file__).parents[3] / "docs" / "sharing.md").read_text()
SECTION = PAGE.partition("\n## Accounts\n")[2].partition("\n## ")[0]
YARD = Path(sys.executable).parent / "yard"


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", SECTION, re.S)


def test_every_command_works_and_the_sheet_is_read(history, tmp_path):
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    assert len(lines) >= 4
    for line in lines:
        command = ["bash", "-c", line.replace("yard ", f"{YARD} ", 1)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ, cwd=tmp_path)
        assert done.returncode == 0, (line, done.stdout + done.stderr)
    (example,) = blocks("python")
    done = subprocess.run([sys.executable, "-c", example], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert re.search(r"hist@boxa +0\.00\d+ +500\.0", done.stdout), done.stdout
    assert "0.9375" in done.stdout


def test_the_section_names_every_column(history, tmp_path):
    said = subprocess.run(
        [YARD, "history", "--format", "csv"], capture_output=True, text=True, check=True, env=os.environ
    )
    named = re.findall(r"`([\w_]+)`", "".join(re.findall(r"^\| (.*?) \|", SECTION, re.M)))
    assert said.stdout.splitlines()[0].split(",") == named
