"""Boxes are drawn where they are, and written in the pixels of the file that a person has."""

import json

import numpy as np
from PIL import Image

from tasks.inference.boxes import FoundBoxes, contact_sheet, with_boxes
from tasks.inference.predictor import Answer, Region
from tasks.recognition.coco.read_coco import read_coco


def answer(path, region, number=0, pixels=(30, 40)):
    whole = np.zeros((*pixels, 3), np.uint8)
    return Answer(str(path), None, None, None, (10, 10), 0.1, None, region=region, number=number, whole=whole)


def test_boxes_are_in_the_pixels_of_the_file_not_of_what_was_looked_at(tmp_path):
    """The image was shrunk to 40x30 before, and its camera had been held upright."""
    image, exif = Image.new("RGB", (600, 800)), Image.Exif()
    exif[274] = 6
    image.save(tmp_path / "a.jpg", exif=exif)  # 800x600 as people see it
    found = FoundBoxes()
    rows = [answer(tmp_path / "a.jpg", Region(0.25, 0.5, 0.75, 1, 0.9), 0)]
    rows += [answer(tmp_path / "a.jpg", Region(0, 0, 0.5, 0.5, 0.7), 1)]
    found.add(rows, ["nut", "bolt"], [0.9, 0.7])
    found.write(tmp_path / "annotations.json", tmp_path)
    content = json.loads((tmp_path / "annotations.json").read_text())
    assert [(one["width"], one["height"], one["file_name"]) for one in content["images"]] == [(800, 600, "a.jpg")]
    assert [one["bbox"] for one in content["annotations"]] == [[200, 300, 400, 300], [0, 0, 400, 300]]
    assert [one["score"] for one in content["annotations"]] == [0.9, 0.7]
    assert read_coco(tmp_path / "annotations.json").classes == ["nut", "bolt"]


def test_an_image_without_a_box_is_listed_and_a_broken_one_is_not(tmp_path):
    Image.new("RGB", (8, 6)).save(tmp_path / "empty.png")
    found = FoundBoxes()
    found.add([answer(tmp_path / "empty.png", None)], [None], [None])
    found.add([Answer("broken.png", None, None, None, (0, 0), 0.1, "damaged")], [None], [None])
    assert [(image.path, image.annotations) for image in found.images] == [(tmp_path / "empty.png", ())]


def test_a_box_is_drawn_around_its_region_and_named_above_it():
    drawn = with_boxes(np.zeros((100, 200, 3), np.uint8), [Region(0.25, 0.5, 0.75, 0.9, 0.8)], ["nut"], [0.8])
    assert drawn.shape == (320, 640, 3)
    assert drawn[:130].max() == 0
    assert drawn[160, 160:480].any(axis=1).all()  # the upper edge
    assert drawn[200:270, 200:440].max() == 0  # nothing inside
    assert drawn[140:160, 160:220].any()


def test_images_of_several_shapes_share_a_sheet():
    sheet = contact_sheet([np.zeros((10, 20, 3), np.uint8), np.zeros((20, 10, 3), np.uint8)] * 2, columns=3)
    assert sheet.shape == (2 * 32, 3 * 32, 3)
    assert contact_sheet([np.zeros((10, 20, 3), np.uint8)]).shape == (22, 32, 3)
