"""A folder of meshes becomes a data set: what is in it, and that threads do not change it."""

import csv
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from tasks.base.errors import DatasetError
from tasks.base.progress import finish
from tasks.recognition.demo.parts import make_demo_parts
from tasks.recognition.render.rendering import render_views, rendering
from tests.tasks.recognition.small_rendering import SMALL_RENDERING


@pytest.fixture(scope="module")
def meshes(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("meshes")
    for path in make_demo_parts(folder)[3:]:
        path.unlink()
    return folder


def render(meshes: Path, target: Path, **changes: object) -> dict[str, bytes]:
    """Return all files, by their path."""
    target.mkdir()
    finish(rendering(meshes, target, SMALL_RENDERING.model_copy(update=changes)))
    return {path.relative_to(target).as_posix(): path.read_bytes() for path in target.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def files(meshes, tmp_path_factory) -> dict[str, bytes]:
    return render(meshes, tmp_path_factory.mktemp("out") / "a")


def test_the_number_of_threads_changes_no_byte(meshes, files, tmp_path):
    assert render(meshes, tmp_path / "b", n_workers=3) == files
    assert (
        render(meshes, tmp_path / "c", seed=1)["views/train/clevis/00000.jpg"] != files["views/train/clevis/00000.jpg"]
    )


def test_the_data_set_is_whole(files):
    said = json.loads(files["parts.json"])
    names = ["angle_bracket", "clevis", "flange_4_holes"]
    assert [part["name"] for part in said["parts"]] == names
    assert [shape["use"] for shape in said["distractors"]] == ["fit", "calibrate"]
    rows = list(csv.DictReader(files["views/poses.csv"].decode().splitlines()))
    assert {row["path"] for row in rows} == {
        path for path in files if path.startswith("views/") and path.endswith("jpg")
    }
    assert len(rows) == 3 * 5 + 2
    assert all(abs(sum(float(row[k]) ** 2 for k in "wxyz") - 1) < 1e-4 for row in rows)
    image = cv2.imdecode(np.frombuffer(files["views/val/clevis/00000.jpg"], np.uint8), cv2.IMREAD_COLOR)
    assert image.shape == (48, 48, 3)


def test_annotations_fit_their_masks(files):
    content = json.loads(files["scenes/train/annotations.json"])
    assert [category["id"] for category in content["categories"]] == [1, 2, 3]
    assert len(content["images"]) == 3
    assert content["annotations"]
    for annotation in content["annotations"]:
        counts = annotation["segmentation"]["counts"]
        assert sum(counts) == 96 * 96
        mask = np.repeat(np.arange(len(counts)) % 2, counts).reshape(96, 96).T  # down the columns
        assert mask.sum() == annotation["area"]
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        left, top, width, height = annotation["bbox"]
        assert (left, top, left + width - 1, top + height - 1) == (columns[0], rows[0], columns[-1], rows[-1])
        assert 0 < annotation["visible"] <= 1
        assert annotation["iscrowd"] == (annotation["visible"] < 0.25)


def test_new_parts_are_rendered_alone(meshes, tmp_path):
    rows = finish(render_views(meshes / "clevis.stl", tmp_path, 2, SMALL_RENDERING, first=10))
    assert [row["name"] for row in rows] == ["clevis"]
    assert sorted(path.name for path in (tmp_path / "clevis").iterdir()) == ["00000.jpg", "00001.jpg"]


def test_a_part_and_a_distractor_have_different_names(meshes, tmp_path):
    with pytest.raises(DatasetError, match="among the parts and among the distractors"):
        finish(rendering(meshes, tmp_path, SMALL_RENDERING.model_copy(update={"distractors": meshes})))
