"""Finds the project's own files that programs read, in a checkout or in an installed wheel."""

from pathlib import Path

_COPIES = Path(__file__).with_name("project")  # setup.py puts them there
_CHECKOUT = Path(__file__).resolve().parents[2]


def project_file(name: str) -> Path:
    """Return where a file of the project is.

    Args:
        name: from the top of the checkout: `prefect.yaml`, `mlflow/server.env`.
    """
    copy = _COPIES / name
    return copy if copy.is_file() else _CHECKOUT / name


def install_command(extra: str = "") -> str:
    """Return what people are told to call where a package is missing.

    Args:
        extra: of pyproject.toml; empty: the packages that are always needed.
    """
    if _COPIES.is_dir():
        return f"`pip install 'trainyard[{extra}]'`" if extra else "`pip install trainyard`"
    return f"`pip install -e '.[{extra}]'` in the checkout" if extra else "`make environment` in the checkout"
