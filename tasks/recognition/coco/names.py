"""Matches the names in annotation files to the names of parts."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from tasks.base.errors import DatasetError


def same_name(name: str) -> str:
    """Return a name in the form in which two count as the same: case, spaces, dots and dashes do not tell apart."""
    return "".join(letter for letter in name.casefold() if letter.isalnum()) or name


def class_numbers(names: Iterable[str], classes: Sequence[str], where: Path) -> dict[str, int]:
    """Return the class number of each name.

    Args:
        names: those that have annotations.
        classes: the parts.
        where: the names stand, for the message.

    Raises:
        DatasetError: a name is that of no part, or of two.
    """
    exact = {name: number for number, name in enumerate(classes)}
    loose: dict[str, list[int]] = {}
    for number, name in enumerate(classes):
        loose.setdefault(same_name(name), []).append(number)
    found = {name: [exact[name]] if name in exact else loose.get(same_name(name), []) for name in names}
    _refuse_unknown(found, classes, where)
    if twice := sorted(name for name, numbers in found.items() if len(numbers) > 1):
        both = [classes[number] for number in found[twice[0]]]
        raise DatasetError(f"found the name {twice[0]!r}, which could be any of {both}, need one of them: {where}")
    return {name: numbers[0] for name, numbers in found.items()}


def _refuse_unknown(found: Mapping[str, list[int]], classes: Sequence[str], where: Path) -> None:
    unknown = sorted(name for name, numbers in found.items() if not numbers)
    if unknown:
        shown = ", ".join(map(repr, unknown[:8])) + (f" and {len(unknown) - 8} more" if len(unknown) > 8 else "")
        raise DatasetError(f"found {shown}, no name of a part, need some of {', '.join(classes)}: {where}")
