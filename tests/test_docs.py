"""The pages name what exists: files, links, modules."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from deployments.machine.doctor import PYTHONS
from tests import module_table

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
TOP = {path.name for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith(".")}
each = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
_CODE = re.compile(r"`([\w./-]+)`")
_LINK = re.compile(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]*))?\)")


def anchors(page):
    """Return what links to headings of a page may say, as GitHub makes it of them."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@each
def test_links_lead_somewhere(page):
    for target, anchor in _LINK.findall(page.read_text()):
        found = page.parent / target if target else page
        assert found.exists(), f"{page.name} links to {target}"
        assert not anchor or anchor in anchors(found), f"{page.name} links to {target}#{anchor}"


@each
def test_files_of_the_project_that_are_named_exist(page):
    text = re.sub(r"[Nn]ew file `[^`]*`", "", page.read_text())
    named = {name for name in _CODE.findall(text) if "/" in name and name.split("/")[0] in TOP - {"docs", "mlflow"}}
    assert not sorted(name for name in named if not (ROOT / name).exists())


@each
def test_modules_of_the_project_that_are_named_exist(page):
    text = page.read_text()
    named = set(re.findall(r"\b(?:python -m|from|import) ((?:tasks|gpu_pools|flows|deployments|tests)[\w.]*)", text))
    made = {name.removesuffix(".py").replace("/", ".") for name in re.findall(r"[Nn]ew file `([^`]*)`", text)}
    paths = {ROOT.joinpath(*name.split(".")) for name in named - made}
    assert not sorted(str(path) for path in paths if not (path.is_dir() or path.with_suffix(".py").is_file()))


def test_the_table_of_modules_is_that_of_the_code():
    assert module_table.PAGE.read_text() == module_table.page(), "`make modules` writes docs/modules.md anew"


@pytest.mark.parametrize("package", module_table.PACKAGES)
def test_every_module_begins_with_one_short_sentence_on_itself(package):
    lines = {path: module_table.first_line(path) for path in (ROOT / package).rglob("*.py")}
    assert not {path: line for path, line in lines.items() if not re.fullmatch(r"\S.{3,}[^.]\.", line) or ". " in line}
    assert not {path: line for path, line in lines.items() if len(line.split()) > 20}


@pytest.mark.long
def test_the_site_has_no_broken_link_and_an_api_from_the_docstrings(tmp_path):
    argv = [Path(sys.executable).parent / "mkdocs", "build", "--strict", "--site-dir", tmp_path / "site"]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "site" / "api" / "gpu_pools.slots" / "index.html").read_text()
    assert "Take the lowest free slot" in page
    assert (tmp_path / "site" / "CONTRIBUTING" / "index.html").is_file()


def test_the_workflow_runs_the_tests_on_every_python_there_is():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "test.yml").read_text())
    job = workflow["jobs"]["test"]
    (_, first), (_, last) = PYTHONS
    assert job["strategy"]["matrix"]["python"] == [f"3.{minor}" for minor in range(first, last + 1)]
    assert job["steps"][-1]["run"] == "make test PYTHON=python"
