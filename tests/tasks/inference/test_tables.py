"""The table says what was answered, how surely, and what could not be used."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from tasks.inference.predictor import Answer, Region
from tasks.inference.tables import CSV, PARQUET, SCHEMA, Summary, TableWriter, row_of, softmax

CLASSES = ["a", "b", "c"]


def answer(logits, path="x.png", error=None, time_s=None):
    values = None if logits is None else np.array(logits, np.float32)
    return Answer(path, time_s, values, None, (4, 3), 0.5, error)


def test_a_row_has_the_best_classes_in_order():
    row = row_of(answer(np.log([0.2, 0.7, 0.1])), CLASSES, None)
    assert (row["class"], row["probability"]) == ("b", pytest.approx(0.7))
    assert [row[f"top{k}"] for k in range(1, 6)] == ["b", "a", "c", None, None]
    assert [row[f"top{k}_probability"] for k in (2, 3)] == pytest.approx([0.2, 0.1])
    assert (row["top4_probability"], row["calibrated_confidence"], row["error"]) == (None, None, None)


def test_a_temperature_softens_the_confidence_and_changes_no_answer():
    row = row_of(answer([0.0, 2.0, 0.0]), CLASSES, 2.0)
    assert row["probability"] == pytest.approx(np.e**2 / (np.e**2 + 2))
    assert row["calibrated_confidence"] == pytest.approx(np.e / (np.e + 2))


def test_large_logits_stay_finite():
    assert softmax(np.array([1e4, 0, -1e4], np.float32)).tolist() == [1, 0, 0]


def test_both_files_hold_every_row(tmp_path):
    rows = [row_of(answer([i, 1.5, 0], f"{i}.png", time_s=0.1 * i), CLASSES, None) for i in range(4)]
    rows.append(row_of(answer(None, "bad\udcff.jpg", error="damaged, not an image: bad.jpg"), CLASSES, None))
    with TableWriter(tmp_path) as table:
        for row in rows:
            table.add(row)
    text, binary = pd.read_csv(tmp_path / CSV), pd.read_parquet(tmp_path / PARQUET)
    assert list(text) == list(binary) == SCHEMA.names
    assert text["path"].tolist() == binary["path"].tolist() == [*(f"{i}.png" for i in range(4)), r"bad\xff.jpg"]
    assert text["class"].tolist()[:4] == ["b", "b", "a", "a"]
    assert text["probability"].tolist() == pytest.approx(binary["probability"].tolist(), nan_ok=True)
    for table in (text, binary):
        assert table["error"].isna().tolist() == [True] * 4 + [False]
        assert table["error"].tolist()[4] == "damaged, not an image: bad.jpg"


def test_more_rows_than_fit_into_memory_at_once_are_all_written(tmp_path, monkeypatch):
    monkeypatch.setattr("tasks.inference.tables._GROUP", 7)
    with TableWriter(tmp_path) as table:
        for i in range(50):
            table.add(row_of(answer([i, 0, 0], f"{i}.png"), CLASSES, None))
            assert len(table._rows) < 7
    assert pd.read_parquet(tmp_path / PARQUET)["path"].tolist() == [f"{i}.png" for i in range(50)]


def test_the_summary_counts_classes_and_failures():
    summary = Summary()
    for row in (row_of(answer([9, 0, 0]), CLASSES, None), row_of(answer(None, error="damaged"), CLASSES, None)):
        summary.add(row)
    assert (dict(summary.counts), summary.n_images, summary.n_failed) == ({"a": 1}, 2, 1)
    assert summary.errors == ["damaged"]
    assert summary.mean_probability == pytest.approx(1, abs=1e-3)
    assert Summary().mean_probability is None


def test_regions_are_rows_of_one_picture(tmp_path):
    regions = [replace(answer([9, 0, 0]), region=Region(0, 0, 0.5, 1, 0.75), number=n) for n in range(2)]
    rows = [row_of(given, CLASSES, None) for given in (*regions, answer(None))]
    summary = Summary()
    for row in rows:
        summary.add(row)
    assert (rows[1]["region"], rows[1]["right"], rows[1]["region_score"]) == (1, 0.5, 0.75)
    assert (summary.n_images, summary.n_answers, summary.n_empty, summary.n_failed) == (2, 2, 1, 0)
