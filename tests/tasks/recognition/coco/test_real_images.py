import json

import cv2
import numpy as np
import pytest

from tasks.base.errors import DatasetError
from tasks.recognition.coco.real_images import read_annotated
from tasks.recognition.coco.subsets import subset_of


def image_file(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.zeros((20, 40, 3), np.uint8))


def roboflow(folder, names=("a.jpg",)):
    for name in names:
        image_file(folder / name)
    content = {
        "images": [{"id": n, "file_name": name, "width": 40, "height": 20} for n, name in enumerate(names)],
        "categories": [{"id": 0, "name": "parts"}, {"id": 1, "name": "nut"}],
        "annotations": [{"id": 0, "image_id": 0, "category_id": 1, "bbox": [1, 2, 3, 4], "iscrowd": 0}],
    }
    (folder / "_annotations.coco.json").write_text(json.dumps(content))


def test_the_parts_of_an_export_are_kept_apart(tmp_path):
    roboflow(tmp_path / "train", ("a.jpg", "b.jpg"))
    roboflow(tmp_path / "valid")
    (tmp_path / "notes.json").write_text('{"info": {}}')
    found = read_annotated(tmp_path, ["nut"])
    assert [len(found.of(subset)) for subset in ("train", "val", "test")] == [2, 1, 0]
    assert [image.path.parent.name for image in found.of("val")] == ["valid"]


def test_a_folder_without_annotations_is_refused(tmp_path):
    image_file(tmp_path / "a.jpg")
    with pytest.raises(DatasetError, match="found no annotations, need a COCO JSON"):
        read_annotated(tmp_path, ["nut"])


def test_an_image_of_two_files_is_refused(tmp_path):
    roboflow(tmp_path)
    (tmp_path / "again.json").write_text((tmp_path / "_annotations.coco.json").read_text())
    with pytest.raises(DatasetError, match="found the image a.jpg in two annotation files"):
        read_annotated(tmp_path, ["nut"])


@pytest.mark.parametrize(
    ("path", "subset"),
    [
        ("annotations/instances_val2017.json", "val"),
        ("valid/_annotations.coco.json", "val"),
        ("images/train/test.jpg", "train"),
        ("test.jpg", None),
        ("annotations/instances_default.json", None),
        ("latest/contest.json", None),
    ],
)
def test_names_say_which_part_is_meant(tmp_path, path, subset):
    assert subset_of(tmp_path.joinpath(path).relative_to(tmp_path)) == subset
