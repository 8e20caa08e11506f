"""What CONTRIBUTING.md tells to add is added, to a copy of the project, and the tests that come with it pass there."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "CONTRIBUTING.md").read_text()
COPIED = "setup.py benchmarks deployments docs flows gpu_pools mlflow tasks tests prefect.yaml pyproject.toml".split()
_EDIT = re.compile(
    r"(?:in\s+`(?P<file>[^`]+)`,\s+(?P<how>above|below|instead\s+of)\s+`(?P<line>[^`]+)`"
    r"|at\s+the\s+end\s+of\s+`(?P<longer>[^`]+)`|new\s+file\s+`(?P<new>[^`]+)`):\n\n```\w+\n(?P<block>.*?)```",
    re.S | re.I,
)


class Edit(NamedTuple):
    file: str
    how: str  # above, below, instead of, at the end, new
    line: str
    block: str


def edits() -> list[Edit]:
    found = []
    for edit in _EDIT.finditer(TEXT):
        how = "new" if edit["new"] else "at the end" if edit["longer"] else " ".join(edit["how"].split())
        found.append(Edit(edit["new"] or edit["longer"] or edit["file"], how, edit["line"] or "", edit["block"]))
    return found


def make(edit: Edit, root: Path) -> None:
    path = root / edit.file
    if edit.how == "new":
        assert not path.exists(), f"{edit.file} is there already"
        path.write_text(edit.block)
        return
    lines = path.read_text().splitlines(keepends=True)
    if edit.how == "at the end":
        path.write_text("".join([*lines, edit.block]))
        return
    found = [n for n, line in enumerate(lines) if edit.line in line]
    assert len(found) == 1, f"{len(found)} lines of {edit.file} have {edit.line!r}, CONTRIBUTING.md needs one"
    first = found[0] + (edit.how == "below")
    lines[first : found[0] + (edit.how != "above")] = [edit.block]
    path.write_text("".join(lines))


def test_every_code_block_is_an_addition():
    assert len(edits()) == len(re.findall(r"^```\w+$", TEXT, re.M)) > 20


@pytest.mark.long
@pytest.mark.timeout(600)
def test_all_additions_work_as_they_are_written(tmp_path):
    copy = tmp_path / "trainyard"
    copy.mkdir()
    for name in COPIED:
        source = ROOT / name
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(source, copy / name, ignore=ignored) if source.is_dir() else shutil.copy(source, copy)
    for edit in edits():
        make(edit, copy)
    added = [
        f"{edit.file}::{name}"
        for edit in edits()
        if edit.file.startswith("tests/")
        for name in re.findall(r"^def (test_\w+)", edit.block, re.M)
    ]
    assert len(added) == 6
    held = [
        "tests/test_prefect_yaml.py::test_parameters_are_those_of_the_flow[count_images]",
        "tests/test_prefect_yaml.py::test_what_people_start_is_on_the_first_page_of_prefects_list",
        "tests/test_prefect_yaml.py::test_the_table_in_the_docs_has_every_deployment",
        "tests/tasks/classification/test_models.py::test_every_model_has_a_head_of_the_size_asked_for[densenet121]",
    ]
    environ = {**os.environ, "PYTHONPATH": str(copy)}  # before the checkout that is installed
    for command in (["ruff", "check", "--quiet", "."], ["pytest", "-q", "-p", "no:cacheprovider", *added, *held]):
        argv = [sys.executable, "-m", *command]
        done = subprocess.run(argv, cwd=copy, env=environ, capture_output=True, text=True, check=False, timeout=500)
        assert done.returncode == 0, done.stdout + done.stderr
