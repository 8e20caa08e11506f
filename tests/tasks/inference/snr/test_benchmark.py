"""Folders are read as SNRs or refused by name, and grades, intervals and tables are exact."""

import cv2
import numpy as np
import pandas as pd
import pytest
import torch

from tasks.base.errors import DatasetError, ImageError
from tasks.classification.models import build_model
from tasks.inference.snr.benchmark import (
    SnrGrade,
    check_classes,
    curves,
    find_snr_sets,
    grade_sets,
    headline,
    interval,
    parse_snr,
    snr_markdown,
    write_tables,
)


def picture(path, level=100, size=40):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((size, size, 3), level, np.uint8))


def graded(snr_db, right, n=10, model="m", colour_map=None):
    confusion = np.array([[right, n - right], [0, 0]])
    low, high = interval(right, n)
    return SnrGrade(model, colour_map, snr_db, n, right / n, low, high, f1_macro=right / n / 2, confusion=confusion)


@pytest.mark.parametrize(
    ("name", "snr_db"),
    [
        *(("-20", -20), ("-20dB", -20), ("-20 dB", -20), ("snr_-20", -20), ("SNR=-20", -20), ("snr-20", -20)),
        *(("+5", 5), ("5", 5), ("snr_5_db", 5), ("2.5dB", 2.5), ("-0", 0), ("snr 10", 10)),
    ],
)
def test_a_folder_is_called_after_its_snr_in_many_ways(name, snr_db):
    assert parse_snr(name) == snr_db


@pytest.mark.parametrize("name", ["", "dB", "high", "snr", "20dBm", "1e3", "jet", "--5", "5-10", "nan", "10_20"])
def test_other_names_mean_no_snr(name):
    assert parse_snr(name) is None


def test_sets_come_in_the_order_of_snr(tmp_path):
    for name in ("10dB", "-20dB", "2.5"):
        for label in ("a", "b"):
            picture(tmp_path / name / label / "1.png")
    (tmp_path / "recipe.json").write_text("{}")
    found = find_snr_sets(tmp_path)
    assert [(one.snr_db, one.colour_map, sorted(one.images)) for one in found] == [
        (snr, None, ["a", "b"]) for snr in (-20, 2.5, 10)
    ]


def test_colour_maps_are_told_from_classes(tmp_path):
    for colour_map in ("jet", "hot"):
        picture(tmp_path / "-10" / colour_map / "a" / "1.png")
    found = find_snr_sets(tmp_path)
    assert [(one.colour_map, list(one.images)) for one in found] == [("hot", ["a"]), ("jet", ["a"])]


def test_names_that_are_no_snr_are_named(tmp_path):
    picture(tmp_path / "-10/a/1.png")
    picture(tmp_path / "loud/a/1.png")
    with pytest.raises(DatasetError, match=r"found the folder\(s\) \['loud'\], need names that are an SNR in dB"):
        find_snr_sets(tmp_path)


def test_two_folders_of_one_snr_are_an_error(tmp_path):
    picture(tmp_path / "-10/a/1.png")
    picture(tmp_path / "-10dB/a/1.png")
    with pytest.raises(DatasetError, match="found -10 and -10dB, both -10 dB"):
        find_snr_sets(tmp_path)


def test_empty_folders_are_errors_at_every_depth(tmp_path):
    with pytest.raises(DatasetError, match="found no folder, need one for each SNR"):
        find_snr_sets(tmp_path)
    (tmp_path / "0").mkdir()
    with pytest.raises(DatasetError, match="found no folder of a class"):
        find_snr_sets(tmp_path)
    (tmp_path / "0/a").mkdir()
    with pytest.raises(DatasetError, match=r"found no image.*0/a"):
        find_snr_sets(tmp_path)
    (tmp_path / "0/jet/b").mkdir(parents=True)
    with pytest.raises(DatasetError, match=r"found classes beside colour maps \(a, jet\)"):
        find_snr_sets(tmp_path)


def test_a_class_the_model_does_not_know_is_an_error(tmp_path):
    picture(tmp_path / "0/bird/1.png")
    sets = find_snr_sets(tmp_path)
    check_classes(sets, ["bird", "drone"], "m")
    with pytest.raises(DatasetError, match=r"found folders of \['bird'\], need classes that m knows: drone, fpv"):
        check_classes(sets, ["drone", "fpv"], "m")


class Bright(torch.nn.Module):
    """Takes what is brighter than 0 (ImageNet's mean) for the second class."""

    def forward(self, images):
        level = images.mean(dim=(1, 2, 3))
        return torch.stack([-level, level], dim=1)


CONFIG = {"model": "resnet18", "classes": ["dark", "light"], "image_size": 32, "precision": "fp32"}


def test_grades_are_those_of_the_answers(tmp_path):
    for number, (label, level) in enumerate([("dark", 10), ("dark", 10), ("dark", 250), ("light", 250)]):
        picture(tmp_path / f"data/-6/{label}/{number}.png", level)
    (one,) = grade_sets(
        Bright(), "m", CONFIG, find_snr_sets(tmp_path / "data"), torch.device("cpu"), cache=tmp_path, batch_size=3
    )
    assert (one.snr_db, one.n_images, one.accuracy) == (-6, 4, 0.75)
    assert one.confusion.tolist() == [[2, 1], [0, 1]]
    assert one.f1_macro == pytest.approx((0.8 + 2 / 3) / 2)


def test_several_colour_maps_also_count_together(tmp_path):
    for colour_map, level in (("hot", 10), ("jet", 250)):
        picture(tmp_path / "data/0" / colour_map / "dark" / "1.png", level)
    sets = find_snr_sets(tmp_path / "data")
    found = grade_sets(Bright(), "m", CONFIG, sets, torch.device("cpu"), cache=tmp_path, batch_size=4)
    assert [(one.colour_map, one.accuracy) for one in found] == [("hot", 1), ("jet", 0), ("all", 0.5)]


def test_a_picture_that_cannot_be_read_is_named(tmp_path):
    picture(tmp_path / "data/0/dark/1.png")
    (tmp_path / "data/0/light").mkdir()
    (tmp_path / "data/0/light/bad.png").write_bytes(b"no image")
    model = build_model("resnet18", 2)
    with pytest.raises(ImageError, match=r"bad\.png"):
        sets = find_snr_sets(tmp_path / "data")
        grade_sets(model, "m", CONFIG, sets, torch.device("cpu"), cache=tmp_path, batch_size=4)


@pytest.mark.parametrize(
    ("right", "n", "low", "high"), [(0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (81, 263, 0.2553, 0.3662)]
)
def test_intervals_are_those_of_wilson(right, n, low, high):
    assert interval(right, n) == pytest.approx((low, high), abs=1e-4)


def test_curves_are_told_apart_by_model_and_colour_map():
    grades = [graded(5, 9), graded(-5, 2), graded(5, 8, model="n"), graded(5, 7, colour_map="jet")]
    found = curves(grades)
    assert [(name, [one.snr_db for one in curve]) for name, curve in found.items()] == [
        ("m", [-5, 5]),
        ("m, jet", [5]),
        ("n", [5]),
    ]


def test_headline_figures_weigh_every_snr_alike():
    found = headline([graded(-20, 2), graded(-10, 4, n=20), graded(0, 9), graded(10, 10), graded(20, 9)])
    assert found["mean"] == pytest.approx((0.2 + 0.2 + 0.9 + 1 + 0.9) / 5)
    assert found["mean_from_10_db"] == pytest.approx(0.95)
    assert found["mean_to_-10_db"] == pytest.approx(0.2)
    assert found["snr_of_90_percent"] == 0


def test_ninety_percent_are_reached_only_where_all_above_are_too():
    assert headline([graded(0, 10), graded(5, 5), graded(10, 9)])["snr_of_90_percent"] == 10
    assert headline([graded(0, 5), graded(10, 8)])["snr_of_90_percent"] is None


def test_tables_hold_every_figure_and_every_cell(tmp_path):
    write_tables([graded(5, 9), graded(-5, 2)], {"m": ["dark", "light"]}, tmp_path / "report")
    table = pd.read_csv(tmp_path / "report/snr.csv")
    assert table[["model", "snr_db", "n_images", "accuracy"]].values.tolist() == [["m", -5, 10, 0.2], ["m", 5, 10, 0.9]]
    cells = pd.read_csv(tmp_path / "report/confusion.csv")
    assert len(cells) == 8
    assert cells.query("snr_db == -5 and true == 'dark' and predicted == 'light'")["images"].item() == 8
    assert pd.read_csv(tmp_path / "report/headline.csv")["mean"].item() == pytest.approx(0.55)


def test_the_summary_has_a_row_per_snr_and_says_where_90_percent_begin():
    text = snr_markdown([graded(10, 9), graded(-10, 2), graded(10, 4, model="n")], "http://x")
    assert "| 10 | 90.0% | 40.0% |" in text
    assert "| -10 | 20.0% |  |" in text
    assert "| 90 % from | 10 dB | never |" in text
    assert text.rstrip().endswith("http://x")
