"""Computes what a trained model answers on a subset of a data set."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from tasks.base.errors import DatasetError, WeightsError
from tasks.base.workspace import replacing
from tasks.classification.data.cache import ResizeCache
from tasks.classification.data.samples import Samples, read_subset
from tasks.classification.data.subsets import load_subsets
from tasks.classification.grading import plots
from tasks.classification.grading.evaluate import TestReport, grade_predictions, write_report
from tasks.classification.models import build_model, head_classes, load_weights
from tasks.classification.params import EvaluateParams, Part
from tasks.classification.training.forward import predict
from tasks.images import figures
from tasks.images.images import read_rgb
from tasks.training.precision import Precision
from tasks.training.state_dicts import read_state_dict


@dataclass(frozen=True, slots=True)
class Answers:
    """A model's answers on some files."""

    probabilities: NDArray[np.float32]  # (N, C)
    labels: NDArray[np.int64]  # (N,)
    paths: list[Path]
    digests: list[str]


def load_model(weights: Path, config: Mapping[str, Any]) -> nn.Module:
    """Return the model of `config` with the weights of a file.

    Raises:
        WeightsError: the file does not fit, or its head has another number of classes.
    """
    state = read_state_dict(weights)
    n_classes, found = len(config["classes"]), head_classes(state, config["model"])
    if found != n_classes:
        raise WeightsError(f"the head in {weights} tells {found} classes apart, need {n_classes}")
    model = build_model(config["model"], n_classes, config["image_size"])
    load_weights(model, config["model"], state, str(weights))
    return model.to(memory_format=torch.channels_last)


def graded_subset(dataset: Path) -> Part:
    """Return the part to grade on: test, or, where the data came without one, val.

    Raises:
        DatasetError: it has neither.
    """
    parts: tuple[Part, ...] = ("test", "val")
    for part in parts:
        if (dataset / part).is_dir():
            return part
    raise DatasetError(f"found neither test/ nor val/ in {dataset}, need one to grade on")


def answer(
    model: nn.Module,
    config: Mapping[str, Any],
    samples: Samples,
    device: torch.device,
    *,
    cache: Path,
    batch_size: int = 64,
) -> Answers:
    """Return the probabilities of the model for every image, in the order given.

    Args:
        model: as `load_model` gives it.
        config: its architecture, image_size and precision.
        samples: images and their class numbers.
        device: to compute on.
        cache: folder for shrunk images, shared by all runs.
        batch_size: images at once.
    """
    cached = ResizeCache(cache / "resized", int(config["image_size"]))
    part = load_subsets({"graded": samples}, cached, n_epochs=1)[0]["graded"]
    precision: Precision = config.get("precision", "fp32")
    batches = part.batches(batch_size, join_last=False, pin=device.type == "cuda")
    model.to(device)
    rows = [logits.softmax(1).cpu().numpy() for logits, _ in predict(model, batches, device, precision)]
    labels = np.asarray(samples.labels, dtype=np.int64)
    return Answers(np.concatenate(rows), labels, list(samples.paths), part.digests)


def graded_samples(dataset: Path, classes: Sequence[str]) -> Samples:
    """Return the images to grade on."""
    return read_subset(dataset, graded_subset(dataset), classes)


def write_answers(answers: Answers, dataset: Path, path: Path) -> None:
    """Write answers to a file, the images named relative to their dataset.

    Raises:
        StorageError: it cannot be written.
    """
    names = [str(each.relative_to(dataset)) for each in answers.paths]
    with replacing(path) as file:
        np.savez(file, probabilities=answers.probabilities, labels=answers.labels, paths=names, digests=answers.digests)


def read_answers(path: Path, dataset: Path) -> Answers:
    """Return the answers in a file that `write_answers` wrote."""
    with np.load(path) as found:
        paths = [dataset / name for name in found["paths"].tolist()]
        return Answers(found["probabilities"], found["labels"], paths, found["digests"].tolist())


def report_on(answers: Answers, dataset: Path, classes: Sequence[str], params: EvaluateParams) -> TestReport:
    """Return what the answers come to; files are named relative to the dataset."""
    paths = [str(path.relative_to(dataset)) for path in answers.paths]
    return grade_predictions(answers.probabilities, answers.labels, paths, answers.digests, classes, params)


def write_images(report: TestReport, history: Sequence[Mapping[str, Any]], dataset: Path, target: Path) -> None:
    """Write the tables and images of a report into `target`: what a person looks at first."""
    write_report(report, target)
    drawn = {
        "confusion_matrix.png": figures.confusion_matrix_figure(report.confusion, report.class_names),
        "learning_curves.png": plots.learning_curves_figure(history),
        "reliability.png": plots.reliability_figure(report.calibration, report.calibration_error),
        "per_class.png": plots.per_class_figure(report.per_class),
        "samples.png": _samples(dataset, report.class_names),
    }
    if report.mistakes:
        images = [_thumbnail(dataset / mistake.path) for mistake in report.mistakes]
        captions = [plots.mistake_caption(m.true, m.predicted, m.confidence) for m in report.mistakes]
        drawn["worst_mistakes.png"] = figures.gallery_figure(images, captions, title="Worst mistakes")
    for name, figure in drawn.items():
        figures.save(figure, target / name)


def _samples(dataset: Path, classes: Sequence[str], per_class: int = 3) -> Any:
    """Return a gallery with a few training images of every class, evenly spaced in the sorted list."""
    images, captions = [], []
    samples = read_subset(dataset, "train", classes)
    for number, name in enumerate(classes):
        paths = [p for p, label in zip(samples.paths, samples.labels, strict=True) if label == number]
        for path in paths[:: max(1, len(paths) // per_class)][:per_class]:
            images.append(_thumbnail(path))
            captions.append(name)
    return figures.gallery_figure(images, captions, columns=2 * per_class, title="Training images")


def _thumbnail(path: Path) -> NDArray[np.uint8]:
    return read_rgb(path, min_side=256)
