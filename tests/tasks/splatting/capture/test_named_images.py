import pytest

from tasks.base.errors import DatasetError
from tasks.splatting.capture.named_images import find_named, parts_of


def folder(root, *files):
    for name in files:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")
    return root


def found(root, *names):
    paths = find_named(root, names, root / "cameras")
    return [path and path.relative_to(root).as_posix() for path in paths]


def test_a_name_that_is_there_is_taken_before_all_that_is_like_it(tmp_path):
    folder(tmp_path, "a.png", "a.jpg", "A.JPG", "a.txt")
    assert found(tmp_path, "a.jpg", "A.JPG", "a.png") == ["a.jpg", "A.JPG", "a.png"]


def test_another_suffix_or_case_will_do(tmp_path):
    folder(tmp_path, "in/a.JPG", "in/b.0001.png", "in/c.txt")
    assert found(tmp_path, "in/a", "in/B.0001.jpg", "in/b.0001", "in/c") == ["in/a.JPG", None, None, None]
    assert found(tmp_path, "in/B.0001.jpg", "in/c.jpg") == ["in/b.0001.png", None]
    assert found(tmp_path, "in/b.0001") == ["in/b.0001.png"]


def test_what_two_names_would_share_is_neither_s(tmp_path):
    folder(tmp_path, "0001.jpg")
    assert found(tmp_path, "cam1/0001.jpg", "cam2/0001.jpg") == [None, None]
    assert found(tmp_path, "cam1/0001.jpg", "0001.jpg") == [None, "0001.jpg"]


def test_a_name_that_stands_twice_is_found_twice(tmp_path):
    folder(tmp_path, "0001.jpg")
    assert found(tmp_path, "0001.png", "0001.png") == ["0001.jpg", "0001.jpg"]


def test_folders_that_are_not_here_are_left_away(tmp_path):
    folder(tmp_path, "images/a.jpg", "b.jpg")
    names = [r"D:\x\images\a.jpg", "/x/images/a.jpg", "./images/a.jpg", r"images\a.jpg"]
    for name in [*names, str(tmp_path / "images" / "a.jpg")]:
        assert found(tmp_path, name) == ["images/a.jpg"]
    assert found(tmp_path, "images/b.jpg") == ["b.jpg"]


def test_smaller_copies_are_taken_largest_first(tmp_path):
    folder(tmp_path, "images_8/a.png", "images_4/a.png", "images_x/a.png")
    assert found(tmp_path, "images/a.jpg") == ["images_4/a.png"]


@pytest.mark.parametrize("name", ["../a.jpg", r"..\a.jpg", "x/../../a.jpg", "images/../../a.jpg"])
def test_a_name_that_leads_out_is_refused(tmp_path, name):
    folder(tmp_path / "in", "b.jpg")
    folder(tmp_path, "a.jpg")
    with pytest.raises(DatasetError, match="which leads out of its folder"):
        found(tmp_path / "in", name)


@pytest.mark.parametrize("name", ["", ".", "/", "a\0.jpg"])
def test_a_name_of_nothing_is_refused(tmp_path, name):
    with pytest.raises(DatasetError, match="names the image .*, need a name"):
        parts_of(name, tmp_path)


def test_dots_inside_are_followed(tmp_path):
    assert parts_of("images/../a/./b.jpg", tmp_path) == ("a", "b.jpg")
