"""Tables of questions are read whole, or refused with the line that is wrong."""

from pathlib import Path

import pytest

from tasks.base.errors import ConfigError, DatasetError
from tasks.vision_language.describe.table_file import as_text, columns_of, image_columns, named_images, read_rows


def written(folder, name, text):
    path = folder / name
    path.write_text(text)
    return path


def test_rows_of_csv_and_of_lines_are_the_same(tmp_path):
    of_csv = read_rows(written(tmp_path, "a.csv", 'image,part\na.png,"bolt, small"\nb.png,nut\n'))
    lines = '{"image": "a.png", "part": "bolt, small"}\n\n{"image": "b.png", "part": "nut"}\n'
    assert of_csv == read_rows(written(tmp_path, "a.jsonl", lines))
    assert columns_of(of_csv) == ["image", "part"]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.csv", "", "found no row"),
        ("a.csv", "image,part\n", "found no row"),
        ("a.csv", "image,image\na,b\n", "found a column twice in image, image"),
        ("a.csv", "image,part\na\n", "line 2 has not the 2 values of the header"),
        ("a.csv", "image,part\na,b,c\n", "line 2 has not the 2 values of the header"),
        ("a.csv", 'image,part\n"a,b\n', "line 2 is not CSV"),
        ("a.jsonl", '{"image": "a"}\n{"image": \n', "line 2 is not JSON"),
        ("a.jsonl", '["a"]\n', "line 1 holds a list, need an object"),
        ("a.jsonl", "[" * 100_000, "line 1 is not JSON"),
    ],
)
def test_a_damaged_table_is_refused_with_its_line(tmp_path, name, text, said):
    with pytest.raises(DatasetError, match=said):
        read_rows(written(tmp_path, name, text))


def test_a_column_that_is_not_there_is_refused_with_those_that_are():
    with pytest.raises(ConfigError, match="found read.images=photo, need one of the columns image, part: t.csv"):
        image_columns(["photo"], ["image", "part"], Path("t.csv"))
    with pytest.raises(ConfigError, match="found no column images or image or path or file, need read.images"):
        image_columns([], ["photo", "part"], Path("t.csv"))
    assert image_columns([], ["part", "path"], Path("t.csv")) == ["path"]


def test_a_row_names_one_or_several_images():
    folder = Path("/data")
    assert named_images({"image": "a.png"}, ["image"], folder) == [folder / "a.png"]
    assert named_images({"image": "a.png; b.png"}, ["image"], folder) == [folder / "a.png", folder / "b.png"]
    assert named_images({"image": ["a;.png", "/x/b.png"]}, ["image"], folder) == [folder / "a;.png", Path("/x/b.png")]
    both = {"before": "a.png", "after": "b.png"}
    assert named_images(both, ["before", "after"], folder) == [folder / "a.png", folder / "b.png"]
    assert named_images({"image": ""}, ["image"], folder) == named_images({}, ["image"], folder) == []


def test_a_cell_is_text_that_any_program_takes():
    assert [as_text(cell) for cell in (None, "a", 3, ["\u732b"], {"a": True})] == [
        "",
        "a",
        "3",
        '["\u732b"]',
        '{"a": true}',
    ]
    assert as_text("\ud83d") == "\\ud83d"
    assert as_text("\udcff") == "\\xff"
