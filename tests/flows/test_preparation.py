"""The preparation flows, each started alone: what a person finds afterwards, and what is refused."""

import cv2
import numpy as np
import pytest
from prefect.client.orchestration import get_client

from flows.preparation import augment_images, crop_images, spectrograms, split_images
from tasks.base.errors import ConfigError, ImageError
from tasks.base.workspace import read_step_info
from tasks.classification.params import AugmentParams, SplitParams
from tasks.signals.params import CropParams, SpectrogramParams

pytestmark = pytest.mark.usefixtures("prefect_api", "yard_home")
SMALL = SpectrogramParams(sample_rate_hz=1e6, frame_s=4e-3, n_fft=128, width=64, height=32)


@pytest.fixture
def pictures(tmp_path):
    root = tmp_path / "bands"
    for number, label in enumerate(("calm", "loud")):
        (root / label).mkdir(parents=True)
        for i in range(6):
            pixels = np.random.default_rng(10 * number + i).integers(0, 256, (24, 32, 3), dtype=np.uint8)
            cv2.imwrite(str(root / label / f"{i}.png"), pixels)
    return root


@pytest.fixture
def recordings(tmp_path):
    for label in ("calm", "loud"):
        (tmp_path / "iq" / label).mkdir(parents=True)
        values = np.random.default_rng(len(label)).standard_normal(2 * 9000).astype("<f4")
        (tmp_path / "iq" / label / "r1.iq").write_bytes(values.tobytes())
    return tmp_path / "iq"


def names(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.*") if path.suffix != ".json")


def pages(key):
    with get_client(sync_client=True) as client:
        return [page.data for page in client.read_artifacts() if page.key == key]


def test_split_fills_the_folder_named(pictures, tmp_path):
    found = split_images(pictures, SplitParams(train_ratio=0.5, val_ratio=0.25), tmp_path / "out")
    assert found == tmp_path / "out"
    counts = {part: len(list((found / part).rglob("*.png"))) for part in ("train", "val", "test")}
    assert counts == {"train": 6, "val": 4, "test": 2}
    assert read_step_info(found)["split"]["train_ratio"] == 0.5
    assert any("12 images of 2 classes" in page for page in pages("split"))


def test_without_a_folder_the_result_lies_with_the_run(pictures, yard_home):
    found = crop_images(pictures, CropParams(x=2, y=1, width=8, height=6))
    assert found.name == "cropped"
    assert found.parent.parent == yard_home / "runs"
    assert names(found) == names(pictures)
    assert cv2.imread(str(found / "calm/0.png")).shape == (6, 8, 3)


def test_a_folder_of_classes_is_augmented_whole(pictures, tmp_path):
    found = augment_images(pictures, AugmentParams(methods=("Sharpen", "CLAHE"), n_workers=1), tmp_path / "out")
    assert len(names(found)) == 36
    assert names(found)[:3] == ["calm/0.png", "calm/0__CLAHE.jpg", "calm/0__Sharpen.jpg"]
    assert any("12 original and 24 altered images by Sharpen, CLAHE" in page for page in pages("augment"))


def test_of_a_split_folder_only_the_training_part_is(pictures, tmp_path):
    split = split_images(pictures, SplitParams(), tmp_path / "split")
    found = augment_images(split, AugmentParams(methods=("Sharpen",), n_workers=1), tmp_path / "out")
    added = set(names(found)) - set(names(split))
    assert {name.partition("/")[0] for name in added} == {"train"}
    assert read_step_info(found)["split"] == read_step_info(split)["split"]


def test_the_folder_valid_of_rfuav_keeps_its_name(pictures, tmp_path):
    (tmp_path / "data").mkdir()
    for part in ("train", "valid"):
        (tmp_path / "data" / part).symlink_to(pictures)
    found = augment_images(tmp_path / "data", AugmentParams(methods=("Sharpen",), n_workers=1), tmp_path / "out")
    counts = {part: len(list((found / part).rglob("*.*"))) for part in ("train", "valid")}
    assert counts == {"train": 24, "valid": 12}


def test_recordings_become_pictures_in_the_same_folders(recordings, tmp_path, caplog):
    found = spectrograms(recordings, SMALL, tmp_path / "out")
    expected = [f"{label}/r1_f0{i}.jpg" for label in ("calm", "loud") for i in (0, 1)]
    assert names(found) == [*expected[:2], "frames.csv", *expected[2:]]
    assert "left out the last 1000 of 9000 samples" in caplog.text
    assert any("4 images of 2 recordings" in page for page in pages("spectrograms"))


def test_a_folder_that_holds_something_is_never_written_into(pictures, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine").write_text("mine")
    with pytest.raises(ConfigError, match="found something in"):
        crop_images(pictures, CropParams(width=4, height=4), tmp_path / "out")
    assert names(tmp_path / "out") == []
    assert (tmp_path / "out/mine").read_text() == "mine"


def test_a_box_outside_a_picture_names_the_file_and_leaves_nothing(pictures, tmp_path):
    with pytest.raises(ImageError, match=r"box x=0 y=0 width=33 height=4 reaches outside the 32x24 image: .*0\.png"):
        crop_images(pictures, CropParams(width=33, height=4), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".out")]


@pytest.mark.parametrize("outside", ["data", "output"])
def test_paths_outside_the_allowed_roots_are_refused(recordings, tmp_path, monkeypatch, outside):
    data, output = tmp_path / "iq", tmp_path / "out"
    roots = {"data": output, "output": data}[outside]
    monkeypatch.setenv("TRAINYARD_ALLOWED_ROOTS", str(roots))
    with pytest.raises(ConfigError, match=rf"{'iq' if outside == 'data' else 'out'} leads outside the allowed roots"):
        spectrograms(data, SMALL, output)
