"""Writes docs/modules.md, the table of every module with the first line of its docstring: `make modules`."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("tasks", "gpu_pools", "flows", "deployments")
PAGE = ROOT / "docs" / "modules.md"
_HEAD = """# Every module

One line a module, the first of its docstring. `make modules` writes this page anew; a test holds it to the code.
[design.md](design.md) says how they work together, [CONTRIBUTING.md](../CONTRIBUTING.md) how to add to them.
"""


def page() -> str:
    """Return the whole page, from the docstrings as they are now."""
    return "\n".join([_HEAD, *(line for package in PACKAGES for lines in _rooms(ROOT / package) for line in lines)])


def first_line(path: Path) -> str:
    """Return the first paragraph of a module's docstring in one line; empty where it has none."""
    said = ast.get_docstring(ast.parse(path.read_text())) or ""
    return " ".join(said.split("\n\n")[0].split())


def modules(folder: Path) -> list[Path]:
    """Return the modules directly in a folder, sorted, without its `__init__`."""
    return sorted(path for path in folder.glob("*.py") if path.name != "__init__.py")


def _rooms(top: Path) -> Iterator[list[str]]:
    """Yield the lines of every room below `top`: its name, what it is for, its modules."""
    for init in sorted(top.rglob("__init__.py")):
        yield [f"## `{init.parent.relative_to(ROOT).as_posix()}/`", "", first_line(init), ""]
        if found := modules(init.parent):
            rows = [f"| `{path.stem}` | {first_line(path).replace('|', '&#124;')} |" for path in found]
            yield ["| module | what |", "|---|---|", *rows, ""]


if __name__ == "__main__":
    PAGE.write_text(page())
