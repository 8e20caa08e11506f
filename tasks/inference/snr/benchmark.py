"""Measures how well models answer at each signal-to-noise ratio, from folders to tables.

Source: the benchmark of RFUAV (arXiv:2503.09033) and its folders <snr>/<colormap>/<class>.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import nn

from tasks.base.errors import DatasetError
from tasks.base.workspace import write_atomic
from tasks.classification.data.samples import Samples
from tasks.classification.grading.answers import answer
from tasks.classification.grading.metrics import check_answers, confusion_counts, grade
from tasks.images.files import find_images, subfolders

_SNR = re.compile(r"(?:snr[_= ]?)?(?P<number>[+-]?\d+(?:\.\d+)?)[_ ]?(?:db)?", re.IGNORECASE | re.ASCII)
_Z95 = 1.959964  # of the normal distribution: 95 % lie within
ALL_MAPS = "all"


@dataclass(frozen=True, slots=True)
class SnrSet:
    """The images of one signal-to-noise ratio, drawn with one colour map."""

    snr_db: float
    colour_map: str | None  # None: the folders do not tell them apart
    images: Mapping[str, Sequence[Path]]  # class -> images


@dataclass(frozen=True, slots=True, eq=False)
class SnrGrade:
    """What a model made of one set."""

    model: str
    colour_map: str | None  # `all`: of all colour maps together
    snr_db: float
    n_images: int
    accuracy: float
    low: float  # 95 % interval of the accuracy
    high: float
    f1_macro: float
    confusion: NDArray[np.int64]  # (C, C) images; row = true class, column = predicted class


def parse_snr(name: str) -> float | None:
    """Return the dB a folder's name means: -20, -20dB, snr_-20, SNR=2.5 ...; None where it means none."""
    found = _SNR.fullmatch(name.strip())
    return float(found["number"]) + 0.0 if found else None  # + 0.0: -0 is 0


def find_snr_sets(root: Path) -> list[SnrSet]:
    """Return the sets in a folder, by SNR and colour map.

    Args:
        root: <snr>/<class>/<image>, or <snr>/<colormap>/<class>/<image>.

    Raises:
        DatasetError: a folder is not called after an SNR, two mean the same, or one holds no images.
    """
    folders = subfolders(root)
    if not folders:
        raise DatasetError(f"found no folder, need one for each SNR, such as -20, -20dB or snr_-20: {root}")
    if strange := [path.name for path in folders if parse_snr(path.name) is None]:
        raise DatasetError(
            f"found the folder(s) {strange[:5]}, need names that are an SNR in dB, "
            f"such as -20, -20dB or snr_-20: {root}"
        )
    by_snr: dict[float, Path] = {}
    for path in folders:
        snr_db = parse_snr(path.name)
        assert snr_db is not None, "strange names were refused"
        other = by_snr.setdefault(snr_db, path)
        if other != path:
            raise DatasetError(f"found {other.name} and {path.name}, both {snr_db:g} dB, need one of them: {root}")
    return [found for snr_db in sorted(by_snr) for found in _sets_of(snr_db, by_snr[snr_db])]


def _sets_of(snr_db: float, folder: Path) -> list[SnrSet]:
    """Return the sets in the folder of one SNR: one, or one for each colour map."""
    inner = subfolders(folder)
    if not inner:
        raise DatasetError(f"found no folder of a class, need <class>/<image>: {folder}")
    deep = [path for path in inner if subfolders(path)]
    if not deep:
        return [SnrSet(snr_db, None, {path.name: _images(path) for path in inner})]
    if len(deep) < len(inner):
        shallow = next(path for path in inner if path not in deep)
        raise DatasetError(f"found classes beside colour maps ({shallow.name}, {deep[0].name}), need one: {folder}")
    return [
        SnrSet(snr_db, path.name, {label.name: _images(label) for label in subfolders(path)}) for path in sorted(deep)
    ]


def _images(folder: Path) -> list[Path]:
    paths, _ = find_images(folder)
    if not paths:
        raise DatasetError(f"found no image, need at least 1: {folder}")
    return paths


def check_classes(sets: Sequence[SnrSet], classes: Sequence[str], model: str) -> None:
    """Hold the classes of the folders against those of a model; a class without a folder is not judged.

    Raises:
        DatasetError: there is a folder of a class that the model does not know.
    """
    found = {label for one in sets for label in one.images}
    if strange := sorted(found - set(classes)):
        raise DatasetError(f"found folders of {strange}, need classes that {model} knows: {', '.join(classes)}")


def grade_sets(
    model: nn.Module,
    label: str,
    config: Mapping[str, Any],
    sets: Sequence[SnrSet],
    device: torch.device,
    *,
    cache: Path,
    batch_size: int,
) -> list[SnrGrade]:
    """Return the grades of the sets of one SNR: of each, and of all colour maps together where there are several.

    Args:
        model: as `grading.load_model` gives it.
        label: what it is called in tables and images.
        config: its architecture, classes, image_size and precision.
        sets: all of the same SNR.
        device: to compute on.
        cache: folder for shrunk images.
        batch_size: images at once.

    Raises:
        ImageError: an image cannot be used.
        TrainingError: the model answers with values that are not finite.
    """
    classes = list(config["classes"])
    answers = []
    for one in sets:
        pairs = [(path, classes.index(name)) for name in sorted(one.images) for path in one.images[name]]
        samples = Samples([path for path, _ in pairs], [number for _, number in pairs])
        found = answer(model, config, samples, device, cache=cache, batch_size=batch_size)
        answers.append((found.probabilities, found.labels))
    grades = [_grade(*pair, label, one.colour_map, one.snr_db) for pair, one in zip(answers, sets, strict=True)]
    if len(sets) > 1:
        probabilities, labels = (np.concatenate(parts) for parts in zip(*answers, strict=True))
        grades.append(_grade(probabilities, labels, label, ALL_MAPS, sets[0].snr_db))
    return grades


def _grade(
    probabilities: NDArray[np.float32], labels: NDArray[np.int64], label: str, colour_map: str | None, snr_db: float
) -> SnrGrade:
    check_answers(probabilities, labels)
    # The cross-entropy is not reported here.
    grades = grade(probabilities, labels, losses=np.zeros(len(labels)))
    low, high = interval(round(grades.accuracy * len(labels)), len(labels))
    confusion = confusion_counts(labels, probabilities.argmax(axis=1), probabilities.shape[1])
    return SnrGrade(
        *(label, colour_map, snr_db, len(labels), grades.accuracy, low, high),
        f1_macro=grades.f1_macro,
        confusion=confusion,
    )


def interval(n_right: int, n_images: int) -> tuple[float, float]:
    """Return the ends of the 95 % interval of a share. Source: Wilson 1927, score interval.

    Images count as independent; frames of one recording are not, so the true interval is wider.
    """
    share, z2 = n_right / n_images, _Z95**2
    middle = (share + z2 / (2 * n_images)) / (1 + z2 / n_images)
    half = _Z95 * math.sqrt(share * (1 - share) / n_images + z2 / (4 * n_images**2)) / (1 + z2 / n_images)
    return max(0.0, middle - half), min(1.0, middle + half)


def curves(grades: Sequence[SnrGrade]) -> dict[str, list[SnrGrade]]:
    """Return the grades of each curve by its name, along SNR: the model, and the colour map where there are some."""
    found: dict[str, list[SnrGrade]] = {}
    for one in sorted(grades, key=lambda g: (g.model, g.colour_map or "", g.snr_db)):
        found.setdefault(one.model if one.colour_map is None else f"{one.model}, {one.colour_map}", []).append(one)
    return found


def headline(curve: Sequence[SnrGrade]) -> dict[str, float | None]:
    """Return the metrics of one curve that papers report: means over SNRs, and where 90 % begin to be reached.

    Every SNR counts the same, whatever its number of images; None where there is no such SNR.
    """
    reached = None
    for one in sorted(curve, key=lambda g: -g.snr_db):
        if one.accuracy < 0.9:
            break
        reached = one.snr_db
    return {
        "mean": _mean(curve),
        "mean_from_10_db": _mean([one for one in curve if one.snr_db >= 10]),
        "mean_to_-10_db": _mean([one for one in curve if one.snr_db <= -10]),
        "f1_macro": float(np.mean([one.f1_macro for one in curve])),
        "snr_of_90_percent": reached,
    }


def _mean(curve: Sequence[SnrGrade]) -> float | None:
    return float(np.mean([one.accuracy for one in curve])) if curve else None


def write_tables(grades: Sequence[SnrGrade], classes: Mapping[str, Sequence[str]], target: Path) -> None:
    """Write snr.csv (a row per model, colour map and SNR), confusion.csv (a row per cell) and headline.csv.

    Args:
        grades: in any order.
        classes: of each model, in the order of its head.
        target: folder; made where it is missing.

    Raises:
        StorageError: it cannot be written.
    """
    figures = ("model", "colour_map", "snr_db", "n_images", "accuracy", "low", "high", "f1_macro")
    ordered = [one for curve in curves(grades).values() for one in curve]
    cells = [
        (one.model, one.colour_map, one.snr_db, true, predicted, int(one.confusion[row, column]))
        for one in ordered
        for row, true in enumerate(classes[one.model])
        for column, predicted in enumerate(classes[one.model])
    ]
    tables = {
        "snr.csv": pd.DataFrame([[getattr(one, name) for name in figures] for one in ordered], columns=list(figures)),
        "confusion.csv": pd.DataFrame(cells, columns=["model", "colour_map", "snr_db", "true", "predicted", "images"]),
        "headline.csv": pd.DataFrame([{"curve": name, **headline(curve)} for name, curve in curves(grades).items()]),
    }
    for name, table in tables.items():
        write_atomic(target / name, table.to_csv(index=False).encode())


def snr_markdown(grades: Sequence[SnrGrade], url: str) -> str:
    """Return the table of accuracies, a column per curve, for a person to read."""
    lines = curves(grades)
    names = list(lines)
    by_snr = {(name, one.snr_db): one for name, curve in lines.items() for one in curve}
    rows = [f"| SNR, dB | {' | '.join(names)} |", "|---" * (1 + len(names)) + "|"]
    for snr_db in sorted({one.snr_db for one in grades}):
        cells = (by_snr.get((name, snr_db)) for name in names)
        rows.append(f"| {snr_db:g} | {' | '.join('' if one is None else f'{one.accuracy:.1%}' for one in cells)} |")
    found = {name: headline(curve) for name, curve in lines.items()}
    for key, title in (("mean", "mean"), ("mean_from_10_db", "mean, >= 10 dB"), ("mean_to_-10_db", "mean, <= -10 dB")):
        rows.append(f"| {title} | {' | '.join(_percent(found[name][key]) for name in names)} |")
    reached = (found[name]["snr_of_90_percent"] for name in names)
    rows.append(f"| 90 % from | {' | '.join('never' if snr is None else f'{snr:g} dB' for snr in reached)} |")
    return "\n".join(["# Accuracy at every SNR", "", *rows, "", f"Curves, confusion and tables: {url}", ""])


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"
