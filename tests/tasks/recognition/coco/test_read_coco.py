import json

import cv2
import numpy as np
import pytest

from tasks.base.errors import DatasetError
from tasks.recognition.coco.annotations import AnnotatedImage, Annotation
from tasks.recognition.coco.files import ImageFiles
from tasks.recognition.coco.read_coco import read_coco
from tasks.recognition.coco.write_coco import write_coco


def image_file(path, width=40, height=30):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.zeros((height, width, 3), np.uint8))
    return path


def coco_file(path, **changes):
    content = {
        "images": [{"id": 7, "file_name": "a.jpg", "width": 40, "height": 30}],
        "categories": [{"id": 0, "name": "objects"}, {"id": 3, "name": "Hex Nut"}, {"id": 9, "name": "pin"}],
        "annotations": [{"id": 1, "image_id": 7, "category_id": 3, "bbox": [5, 6, 10, 8], "iscrowd": 0}],
    } | changes
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def test_what_was_written_is_read_again(tmp_path):
    pose = {"rotation": [1, 0, 0, 0], "visible": 0.5, "segmentation": {"size": [30, 40], "counts": [1200]}}
    one = Annotation(1, (2.0, 3.0, 10.0, 20.5), 60.0, extra=pose)
    images = [
        AnnotatedImage(
            image_file(tmp_path / "images" / "a.jpg"), 40, 30, (one, Annotation(0, (0, 0, 4, 4), 16, True)), "val"
        ),
        AnnotatedImage(image_file(tmp_path / "images" / "b.jpg"), 40, 30, (), "val"),
    ]
    write_coco(tmp_path / "annotations.json", images, ["nut", "pin"])
    found = read_coco(tmp_path / "annotations.json", subset="val")
    assert found.images == images
    assert found.classes == ["nut", "pin"]


def test_categories_are_matched_by_name_and_unused_ones_ignored(tmp_path):
    image_file(tmp_path / "a.jpg")
    found = read_coco(coco_file(tmp_path / "x.json"), ["bolt", "hex_nut"])
    (one,) = found.images[0].annotations
    assert (one.label, one.box, one.area) == (1, (5, 6, 15, 14), 80)


def test_a_name_that_is_no_part_is_refused_by_name(tmp_path):
    image_file(tmp_path / "a.jpg")
    with pytest.raises(DatasetError, match="found 'Hex Nut', no name of a part, need some of bolt, pin"):
        read_coco(coco_file(tmp_path / "x.json"), ["bolt", "pin"])


@pytest.mark.parametrize(
    ("said", "lies", "json_at"),
    [
        ("a.jpg", "images/a.jpg", "x.json"),
        ("a.jpg", "images/a.jpg", "annotations/x.json"),  # CVAT
        ("default/a.jpg", "images/default/a.jpg", "annotations/x.json"),
        ("../../label-studio/data/media/upload/3/a.jpg", "images/a.jpg", "result.json"),  # Label Studio
        ("/data/upload/1\\a.jpg", "images/a.jpg", "result.json"),
        ("000/a.jpg", "val2017/000/a.jpg", "annotations/instances_val2017.json"),
    ],
)
def test_images_are_found_where_tools_put_them(tmp_path, said, lies, json_at):
    image = image_file(tmp_path / lies)
    rows = [{"id": 7, "file_name": said, "width": 40, "height": 30}]
    found = read_coco(coco_file(tmp_path / json_at, images=rows), files=ImageFiles(tmp_path))
    assert [each.path for each in found.images] == [image]


def test_a_file_outside_the_folder_is_never_opened(tmp_path):
    image_file(tmp_path / "secret.jpg")
    rows = [{"id": 7, "file_name": "../secret.jpg", "width": 40, "height": 30}]
    with pytest.raises(DatasetError, match="found no image '../secret.jpg'"):
        read_coco(coco_file(tmp_path / "set" / "x.json", images=rows))


def test_boxes_are_cut_at_the_edge_and_empty_ones_left_out(tmp_path):
    image_file(tmp_path / "a.jpg")
    boxes = [[-3, 20, 10, 20], [50, 0, 10, 10], [5, 5, 0, 4]]
    rows = [{"id": n, "image_id": 7, "category_id": 9, "bbox": box} for n, box in enumerate(boxes)]
    found = read_coco(coco_file(tmp_path / "x.json", annotations=rows))
    assert [one.box for one in found.images[0].annotations] == [(0, 20, 7, 30)]
    assert found.notes == [f"left out 2 box(es) without area on the image: {tmp_path / 'x.json'}"]


def test_a_polygon_without_a_box_gets_the_box_around_it(tmp_path):
    image_file(tmp_path / "a.jpg")
    rows = [{"id": 1, "image_id": 7, "category_id": 9, "segmentation": [[1, 2, 9, 3, 5, 8]]}]
    found = read_coco(coco_file(tmp_path / "x.json", annotations=rows))
    assert found.images[0].annotations[0].box == (1, 2, 9, 8)


def test_a_size_that_is_not_said_is_read_from_the_image(tmp_path):
    image_file(tmp_path / "a.jpg", 44, 22)
    found = read_coco(coco_file(tmp_path / "x.json", images=[{"id": 7, "file_name": "a.jpg"}]))
    assert (found.images[0].width, found.images[0].height) == (44, 22)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"categories": {}}, "no COCO JSON"),
        ({"annotations": [{"id": 1, "image_id": 7, "category_id": 3, "bbox": [1, 2, "x", 3]}]}, "need four numbers"),
        (
            {"annotations": [{"id": 1, "image_id": 7, "category_id": 3, "bbox": [1, 2, float("nan"), 3]}]},
            "four numbers",
        ),
        ({"annotations": [{"id": 1, "image_id": 7, "category_id": 4, "bbox": [1, 2, 3, 3]}]}, "category 4"),
        ({"annotations": [{"id": 1, "image_id": 8, "category_id": 3, "bbox": [1, 2, 3, 3]}]}, "image 8"),
        ({"annotations": ["no"]}, "need an object"),
        ({"images": [{"id": "7", "file_name": "a.jpg"}]}, "need a whole number"),
    ],
)
def test_what_cannot_be_used_is_named(tmp_path, changes, message):
    image_file(tmp_path / "a.jpg")
    with pytest.raises(DatasetError, match=message):
        read_coco(coco_file(tmp_path / "x.json", **changes))
