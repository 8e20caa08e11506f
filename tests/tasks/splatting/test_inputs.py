import numpy as np
import pytest

from tasks.classification.images import write_jpeg
from tasks.errors import ConfigError, DatasetError
from tasks.splatting.inputs import adopt, recognise


def picture(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    write_jpeg(path, np.zeros((8, 8, 3), np.uint8), 90)


def test_a_file_is_a_video_whatever_it_is_called(tmp_path):
    (tmp_path / "IMG_0001").write_bytes(b"")
    assert recognise(tmp_path / "IMG_0001") == "video"


@pytest.mark.parametrize("place", ["sparse/0", "sparse", "."])
@pytest.mark.parametrize("suffix", [".bin", ".txt"])
def test_a_model_beside_pictures_is_colmap(tmp_path, place, suffix):
    picture(tmp_path / "images" / "a.jpg")
    (tmp_path / place).mkdir(parents=True, exist_ok=True)
    (tmp_path / place / f"cameras{suffix}").write_bytes(b"")
    assert recognise(tmp_path) == "colmap"


def test_a_transforms_file_comes_before_all_else(tmp_path):
    picture(tmp_path / "a.jpg")
    (tmp_path / "sparse").mkdir()
    (tmp_path / "sparse" / "cameras.bin").write_bytes(b"")
    (tmp_path / "transforms.json").write_text("{}")
    assert recognise(tmp_path) == recognise(tmp_path / "transforms.json") == "transforms"


def test_pictures_alone_are_photographs(tmp_path):
    picture(tmp_path / "a.jpg")
    assert recognise(tmp_path) == "photos"


def test_a_folder_of_other_things_is_refused_with_what_it_holds(tmp_path):
    (tmp_path / "film.mp4").write_bytes(b"")
    with pytest.raises(DatasetError, match="which holds film.mp4; .* of a video give the file itself"):
        recognise(tmp_path)


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(DatasetError, match="which holds nothing"):
        recognise(tmp_path)


def test_one_photograph_is_refused(tmp_path):
    picture(tmp_path / "a.jpg")
    with pytest.raises(ConfigError, match="is one photograph, need a video or a folder"):
        recognise(tmp_path / "a.jpg")


def test_nothing_there_is_said(tmp_path):
    with pytest.raises(ConfigError, match="there is no .*nowhere"):
        recognise(tmp_path / "nowhere")


def test_a_model_without_pictures_is_refused(tmp_path):
    (tmp_path / "sparse" / "0").mkdir(parents=True)
    (tmp_path / "sparse" / "0" / "cameras.bin").write_bytes(b"")
    with pytest.raises(DatasetError, match="no folder images with its pictures"):
        list(adopt(tmp_path, tmp_path / "out", 640))
