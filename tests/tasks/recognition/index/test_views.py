"""A data set of views is read as it is, or refused with the reason."""

import json
import shutil

import numpy as np
import pytest

from tasks.base.errors import DatasetError
from tasks.recognition.index.views import evenly, read_new_views, read_view_set
from tests.tasks.recognition.index.conftest import PARTS


@pytest.fixture
def copy(dataset, tmp_path):
    return shutil.copytree(dataset, tmp_path / "copy")


def test_views_have_their_parts_and_uses(dataset):
    found = read_view_set(dataset)
    assert found.parts == PARTS
    assert [len(found.subset(name)) for name in ("train", "val", "test")] == [72, 18, 24]
    assert len(found.distractor_views("fit")) == len(found.distractor_views("calibrate")) == 12
    assert {found.names[label] for label in found.distractor_views("fit").labels} == {"cross"}
    assert np.allclose(np.linalg.norm(found.views.rotations, axis=1), 1)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("../secret.jpg,disc,1,0,0,0", "need one below the data set"),
        ("/etc/passwd,disc,1,0,0,0", "need one below the data set"),
        (",disc,1,0,0,0", "need one below the data set"),
        ("views/a.jpg,nothing,1,0,0,0", "found the part 'nothing'"),
        ("views/a.jpg,disc,1,1,0,0", "quaternion of length 1.41"),
        ("views/a.jpg,disc,nan,0,0,0", "quaternion of length nan"),
        ("views/a.jpg,disc,x,0,0,0", "need numbers"),
        ("views/a.jpg,disc,1", "need numbers"),
    ],
)
def test_a_line_that_cannot_be_is_refused(copy, line, reason):
    with (copy / "views" / "poses.csv").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(DatasetError, match=reason):
        read_view_set(copy)


@pytest.mark.parametrize(
    ("described", "reason"),
    [
        ([], "found a list"),
        ({"parts": []}, "at least one part"),
        ({"parts": [{"name": "b"}, {"name": "a"}]}, "sorted"),
        ({"parts": [{"name": "a"}, {"name": "a"}]}, "each name once"),
        ({"parts": [{"name": "unknown"}]}, "answer of its own"),
        ({"parts": [{"title": "a"}]}, "'name'"),
        ({"parts": [{"name": "a"}], "distractors": [{"name": "b", "use": "eat"}]}, "the use 'eat'"),
    ],
)
def test_parts_that_cannot_be_are_refused(copy, described, reason):
    (copy / "parts.json").write_text(json.dumps(described))
    with pytest.raises(DatasetError, match=reason):
        read_view_set(copy)


def test_a_part_without_views_is_named(copy):
    table = copy / "views" / "poses.csv"
    table.write_text("".join(row for row in table.read_text().splitlines(True) if "val/ring" not in row))
    with pytest.raises(DatasetError, match="no view of ring"):
        read_view_set(copy).subset("val")


def test_views_of_nothing_are_refused(tmp_path):
    (tmp_path / "poses.csv").write_text("path,part,w,x,y,z\n")
    with pytest.raises(DatasetError, match="found no view"):
        read_new_views(tmp_path)


def test_views_are_taken_evenly():
    labels = np.array([0] * 10 + [1] * 3)
    assert evenly(labels, 5).tolist() == [0, 2, 4, 6, 8, 10, 11, 12]
