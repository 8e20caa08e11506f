"""A hook of mkdocs: README.md, CONTRIBUTING.md and a page on each room of modules become pages of the site."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("tasks", "gpu_pools", "flows", "deployments")
OUTSIDE = {"README.md": "index.md", "CONTRIBUTING.md": "CONTRIBUTING.md"}
"""Pages at the top of the checkout -> their names in the site."""


def on_config(config: Any) -> Any:
    """List the rooms below "API"."""
    rooms = [{name: f"api/{name}.md"} for name, _ in _rooms()]
    config.nav = [{"API": rooms} if entry == {"API": "api/"} else entry for entry in config.nav]
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that do not lie in docs/."""
    for name, page in OUTSIDE.items():
        files.append(File.generated(config, page, content=(ROOT / name).read_text()))
    for name, modules in _rooms():
        text = "\n".join([f"# {name}", "", *(f"::: {module}\n" for module in modules)])
        files.append(File.generated(config, f"api/{name}.md", content=text))
    return files


def on_page_markdown(text: str, page: Any, **_: Any) -> str:
    """Let links lead to where pages are in the site."""
    inside = text.replace("](docs/", "](") if page.file.src_uri in OUTSIDE.values() else text
    for name, target in OUTSIDE.items():
        inside = inside.replace(f"](../{name}", f"]({target}")
    return inside


def _rooms() -> Iterator[tuple[str, list[str]]]:
    """Yield the dotted name of each room and of its modules, its `__init__` first."""
    for package in PACKAGES:
        for init in sorted((ROOT / package).rglob("__init__.py")):
            name = ".".join(init.parent.relative_to(ROOT).parts)
            yield name, [name, *(f"{name}.{path.stem}" for path in sorted(init.parent.glob("*.py")) if path != init)]
