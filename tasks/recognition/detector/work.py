"""What the steps of a recognition do with a trained detector: keep what it finds, and report on it."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tasks.base.errors import TrainyardError
from tasks.base.workspace import write_json
from tasks.images.images import encode_jpeg
from tasks.recognition.coco.annotations import AnnotatedImage
from tasks.recognition.dataset import name_of
from tasks.recognition.detector import champion, onnx_export
from tasks.recognition.detector.finding import Truth, truth_of
from tasks.recognition.detector.grading.detections import Detections, detect_all, read_detections, write_detections
from tasks.recognition.detector.grading.grades import Grades, grade, working_threshold
from tasks.recognition.detector.grading.report import write_gallery, write_report
from tasks.recognition.detector.serving import log_detector
from tasks.recognition.detector.squaring import squared
from tasks.recognition.detector.training.scenes import Scenes, joint_digest
from tasks.recognition.detector.training.session import DetectorSession
from tasks.recognition.detector.training.sources import real, rendered
from tasks.recognition.detector.weights import load_detector_weights
from tasks.recognition.params import DetectorParams
from tasks.run.display import Bars
from tasks.run.resume_point import FINISHED
from tasks.run.run_log import Logger
from tasks.tracking import registry
from tasks.tracking.mlflow_names import as_name
from tasks.tracking.tracker import Tracker
from tasks.training.champion import read_champion_answers
from tasks.training.promotion_rule import Decision

CHAMPION = "champion.npz"
_ONNX_IMAGES = 50


@dataclass(frozen=True, slots=True)
class Graded:
    """One set of images to grade on, with what is there and what was found."""

    scenes: Scenes
    truth: list[Truth]  # shares of the longer side
    found: list[Detections]


def keep_detections(session: DetectorSession, bars: Bars, log: Logger, *, model_name: str | None) -> None:
    """Keep what a trained detector finds on the images to grade on, and the threshold that it works best with.

    Args:
        session: of a training that has ended.
        bars, log: of the run.
        model_name: whose champion is asked too, so that the report needs no GPU; None: nobody's.

    Raises:
        DatasetError, ImageError, WeightsError, StorageError: as their names say.
    """
    dataset, folder, params, device = session.dataset, session.folder, session.params, session.device
    (folder / CHAMPION).unlink(missing_ok=True)
    config = json.loads((folder / "config.json").read_text())
    model = load_detector_weights(folder / "best.pt", config)
    graded, done = _graded_images(dataset, params, config["classes"]), 0
    for name, images in graded.items():
        scenes = _looked_at(images, params)
        found = detect_all(model, scenes, params, device, config["precision"])
        if name == "val":
            threshold = working_threshold(found, _truth(scenes), len(config["classes"]))
            write_json(folder / "config.json", {**config, "threshold": math.floor(1e4 * threshold) / 1e4})
        write_detections(folder / f"found_{name}.npz", found, scenes.digests)
        done += len(images)
        bars.move("find", done, sum(map(len, graded.values())))
    if model_name is not None:
        _keep_champion(session, model_name, log)


def _keep_champion(session: DetectorSession, model_name: str, log: Logger) -> None:
    folder, params = session.folder, session.params
    classes = json.loads((folder / "config.json").read_text())["classes"]
    scenes = _looked_at(rendered(session.dataset, "test", classes), params)
    try:
        theirs = champion.ask_champion(model_name, scenes, _truth(scenes), params, session.device)
    except TrainyardError as exc:  # for example, MLflow is away: that must neither lose a training nor hold its slot
        log.warning("the champion is left to the report: %s", exc)
        return
    if theirs is not None:
        theirs.keep(folder / CHAMPION)


def _graded_images(dataset: Path, params: DetectorParams, classes: list[str]) -> dict[str, list[AnnotatedImage]]:
    """Return what is graded on: scenes for validation, for the threshold; scenes for testing; photographs."""
    images = {"val": rendered(dataset, "val", classes), "rendered": rendered(dataset, "test", classes)}
    photographs = real(params, classes)
    if photographs is not None and (graded := photographs.of("test")):
        images["real"] = graded
    return images


def _looked_at(images: list[AnnotatedImage], params: DetectorParams) -> Scenes:
    scenes = Scenes(images, params.image_size, keep=False)
    for _ in scenes.look(params.n_workers):
        pass
    return scenes


def _truth(scenes: Scenes) -> list[Truth]:
    return [truth_of(scenes, number, 1) for number in range(len(scenes))]


def report_detector(
    dataset: Path, folder: Path, params: DetectorParams, tracker: Tracker, log: Logger, *, model_name: str
) -> str:
    """Grade the best weights on images that were not trained on, register them, decide who is champion.

    Args:
        dataset, folder, params: of the training.
        tracker: of the training's MLflow run.
        log: of the step.
        model_name: of the registered model.

    Returns:
        The summary, Markdown.

    Raises:
        TrackingError: MLflow does not take something.
        TrainingError: the detector cannot be exported.
    """
    config = json.loads((folder / "config.json").read_text())
    finished = json.loads((folder / FINISHED).read_text())
    sets = {
        name: _read_back(folder, name, images, params)
        for name, images in _graded_images(dataset, params, config["classes"]).items()
        if name != "val"
    }
    graded = {name: grade(one.found, one.truth, config["classes"], config["threshold"]) for name, one in sets.items()}
    write_report(folder / "report", graded, finished["history"])
    for name, one in sets.items():
        file = "gallery.jpg" if name == "rendered" else f"{name}_gallery.jpg"
        write_gallery(folder / "report" / file, one.scenes, one.found, one.truth, graded[name], params.n_worst)
    _log_training(folder, config, tracker)
    _log_grades(sets, graded, int(finished["best_epoch"]), dataset, tracker)
    notes = [_export(folder, config, sets["rendered"].scenes, tracker)] if params.check_onnx else []
    for note in notes:
        log.info("%s", note)
    register = partial(_register, folder, config, params, tracker, sets["rendered"], finished, model_name)
    decision = tracker.unless_away(register)
    log.info("mAP@50 %.3f on %d unseen scenes", graded["rendered"].map50, graded["rendered"].n_images)
    return summary(graded, decision, config, notes, tracker.url)


def _read_back(folder: Path, name: str, images: list[AnnotatedImage], params: DetectorParams) -> Graded:
    found, digests = read_detections(folder / f"found_{name}.npz")
    scenes = Scenes(images, params.image_size, keep=False)
    scenes.digests = digests
    return Graded(scenes, _truth(scenes), found)


def _log_training(folder: Path, config: Mapping[str, Any], tracker: Tracker) -> None:
    files = {"best.pt": "weights", "last.pt": "weights", "history.csv": "figures", "seen_digests.json": "dataset"}
    for name, target in files.items():
        tracker.artifact(folder / name, target)
    tracker.text(json.dumps(config, indent=2), champion.CONFIG)
    tracker.artifact(folder / "report", "report")


def _log_grades(
    sets: Mapping[str, Graded], graded: Mapping[str, Grades], epoch: int, dataset: Path, tracker: Tracker
) -> None:
    """Log the metrics of each set at the epoch of the best weights, and what was graded on."""
    values: dict[str, float | None] = {}
    for name, grades in graded.items():
        place = "test" if name == "rendered" else name
        values |= {f"{key}/{place}": getattr(grades, key) for key in ("map50", "map", "precision", "recall", "f1")}
        for part, row in grades.per_part.items():
            values[f"average_precision_50/{place} {as_name(part)}"] = row.ap50
            values[f"recall/{place} {as_name(part)}"] = row.recall
        scenes = sets[name].scenes
        profile = {"images": grades.n_images, "boxes": grades.n_parts}
        where = str(dataset / "scenes" / "test") if name == "rendered" else str(scenes.images[0].path.parent)
        tracker.input(
            f"{name_of(dataset)}-{place}", where, joint_digest({place: scenes}), context="testing", profile=profile
        )
    if "real" in graded:
        values["map50/gap_rendered_real"] = graded["rendered"].map50 - graded["real"].map50
    tracker.metrics(values, epoch)


def _export(folder: Path, config: Mapping[str, Any], scenes: Scenes, tracker: Tracker) -> str:
    """Export the best weights as ONNX, compare, and give MLflow the file; return the sentence on it."""
    if why := onnx_export.NOT_EXPORTED.get(config["network"]):
        return f"{config['network']} is not exported: {why}"
    detector = load_detector_weights(folder / "best.pt", config)
    path = folder / "detector.onnx"
    onnx_export.export(detector, path)
    numbers = range(min(_ONNX_IMAGES, len(scenes)))
    squares = [squared(scenes.read(number), detector.image_size) for number in numbers]
    agreement = onnx_export.compare(detector, path, squares)
    if not agreement.is_close:
        return f"{agreement}; it is left out"
    tracker.artifact(path, "onnx")
    return str(agreement)


def _register(
    folder: Path,
    config: Mapping[str, Any],
    params: DetectorParams,
    tracker: Tracker,
    test: Graded,
    finished: Mapping[str, Any],
    model_name: str,
) -> Decision | None:
    example = encode_jpeg(test.scenes.read(0), 95)
    uri = log_detector(tracker.run_id, folder / "best.pt", config, example, step=int(finished["best_epoch"]))
    if not params.register_model:
        return None
    tracker.flush()  # a later comparison reads the weights from MLflow
    tags = {"network": config["network"], "map_val": f"{finished['best_map']:.4f}"}
    version = registry.register(model_name, tracker.run_id, uri, tags=tags)
    ours = champion.part_answers(test.found, test.truth, test.scenes.digests, config)
    known = read_champion_answers(folder / CHAMPION)
    decision = champion.decide_promotion(model_name, version, ours, params, known, (test.scenes, test.truth))
    tracker.tag("model_version", f"{model_name} {version}")
    tracker.tag("decision", decision.reason)
    return decision


def summary(
    graded: Mapping[str, Grades], decision: Decision | None, config: Mapping[str, Any], notes: list[str], url: str
) -> str:
    """Return the Markdown summary of a run for its Prefect page."""
    test = graded["rendered"]
    columns = list(graded)
    lines = [
        f"# {config['network']}: mAP@50 {test.map50:.3f} on {test.n_images} unseen scenes",
        "",
        f"| metric | {' | '.join(columns)} |",
        "|---" * (1 + len(columns)) + "|",
    ]
    names = {"map50": "mAP@50", "map": "mAP@50:95", "precision": "precision", "recall": "recall", "f1": "F1"}
    for key, name in names.items():
        lines.append(f"| {name} | {' | '.join(f'{getattr(graded[column], key):.3f}' for column in columns)} |")
    lines.append(f"| images | {' | '.join(str(graded[column].n_images) for column in columns)} |")
    lines += ["", f"Precision, recall and F1 are at the threshold {test.threshold:.2f}, the best one for validation."]
    if "real" in graded:
        lines += [f"The gap from rendered scenes to photographs is {test.map50 - graded['real'].map50:.3f} mAP@50."]
    lines += ["", "| part | AP@50 | AP@50:95 | precision | recall | on the scenes |", "|---|---|---|---|---|---|"]
    for part, row in test.per_part.items():
        cells = " | ".join(_shown(value) for value in (row.ap50, row.ap, row.precision, row.recall))
        lines.append(f"| {part} | {cells} | {row.n} |")
    if decision is not None:
        lines += ["", ("**New champion.** " if decision.promote else "**The champion stays.** ") + decision.reason]
    return "\n".join([*lines, "", *(f"{note}." for note in notes), "", f"Images, weights and curves: {url}", ""])


def _shown(value: float | None) -> str:
    return "null" if value is None else f"{value:.3f}"
