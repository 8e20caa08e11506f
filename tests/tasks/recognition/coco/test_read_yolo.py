import cv2
import numpy as np
import pytest

from tasks.base.errors import DatasetError
from tasks.recognition.coco.annotations import AnnotatedImage, Annotation
from tasks.recognition.coco.read_yolo import read_yolo
from tasks.recognition.coco.write_yolo import write_yolo

NAMES = "path: ../datasets/x\ntrain: images/train\nnames:\n  0: hex nut\n  1: pin\n"


def put(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def image_file(path, width=40, height=20):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.zeros((height, width, 3), np.uint8))
    return path


def boxes(found):
    return {image.path.name: [(one.label, one.box) for one in image.annotations] for image in found.images}


@pytest.mark.parametrize(
    ("names", "images", "labels", "subset"),
    [
        ("data.yaml", "images/train/a.jpg", "labels/train/a.txt", "train"),  # ultralytics
        ("data.yaml", "valid/images/a.jpg", "valid/labels/a.txt", "val"),  # Roboflow
        ("classes.txt", "images/a.jpg", "labels/a.txt", None),  # Label Studio
        ("classes.txt", "a.jpg", "a.txt", None),  # labelImg
        ("obj.names", "obj_train_data/a.jpg", "obj_train_data/a.txt", None),  # CVAT
    ],
)
def test_the_layouts_of_the_tools_are_read(tmp_path, names, images, labels, subset):
    put(tmp_path / names, NAMES if names.endswith("yaml") else "hex nut\npin\n")
    image_file(tmp_path / images)
    put(tmp_path / labels, "1 0.5 0.5 0.25 0.5\n")
    found = read_yolo(tmp_path, ["pin", "Hex_Nut"])
    assert boxes(found) == {"a.jpg": [(0, (15, 5, 25, 15))]}
    assert found.images[0].subset == subset


def test_a_polygon_becomes_the_box_around_it(tmp_path):
    put(tmp_path / "classes.txt", "nut")
    image_file(tmp_path / "images/a.jpg")
    put(tmp_path / "labels/a.txt", "0 0.25 0.5 0.5 0.75 0.75 0.25\n0 0.5 0.5 0.5 0.5 0.9\n")
    assert boxes(read_yolo(tmp_path))["a.jpg"] == [(0, (10, 5, 30, 15)), (0, (10, 5, 30, 15))]


def test_images_without_a_text_file_show_no_part_and_are_counted(tmp_path):
    put(tmp_path / "classes.txt", "nut")
    for name in "ab":
        image_file(tmp_path / f"images/{name}.jpg")
    put(tmp_path / "labels/a.txt", "")
    found = read_yolo(tmp_path)
    assert boxes(found) == {"a.jpg": [], "b.jpg": []}
    assert found.notes[0].startswith("1 of 2 images have no text file")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0 100 20 30 10", "need shares of the image"),
        ("0 0.5 0.5 nan 0.2", "need shares of the image"),
        ("2 0.5 0.5 0.2 0.2", "found class 2, need 0 to 1, in line 1 of"),
        ("0 0.5 0.5", "found 3 numbers"),
        ("nut 0.5 0.5 0.2 0.2", "need numbers"),
    ],
)
def test_a_line_of_another_form_is_named(tmp_path, line, message):
    put(tmp_path / "classes.txt", "nut\npin")
    image_file(tmp_path / "a.jpg")
    put(tmp_path / "a.txt", line)
    with pytest.raises(DatasetError, match=message):
        read_yolo(tmp_path)


@pytest.mark.parametrize(
    ("names", "message"),
    [("names: {0: a, 2: b}", "need 0 to 1"), ("nc: 3", "no names"), ("names: []", "no names"), ("- a", "no names")],
)
def test_names_that_are_none_are_refused(tmp_path, names, message):
    put(tmp_path / "data.yaml", names)
    with pytest.raises(DatasetError, match=message):
        read_yolo(tmp_path)


def test_a_name_that_is_no_part_is_refused(tmp_path):
    put(tmp_path / "classes.txt", "nut\nwasher")
    image_file(tmp_path / "a.jpg")
    put(tmp_path / "a.txt", "1 0.5 0.5 0.2 0.2")
    with pytest.raises(DatasetError, match="found 'washer', no name of a part, need some of nut, pin"):
        read_yolo(tmp_path, ["nut", "pin"])


def test_what_was_written_is_read_again(tmp_path):
    image = AnnotatedImage(
        image_file(tmp_path / "images/a.jpg"), 40, 20, (Annotation(1, (4.0, 5.0, 14.0, 15.0), 100.0),)
    )
    write_yolo(tmp_path, [image], ["nut", "pin"])
    found = read_yolo(tmp_path)
    assert found.classes == ["nut", "pin"]
    assert found.images[0].annotations[0].box == pytest.approx((4, 5, 14, 15), abs=1e-4)
