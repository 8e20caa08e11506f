"""`yard history` against a real server of Prefect, and one of MLflow."""

import io
import json
import os
from datetime import datetime

import pandas as pd
import pytest
from typer.testing import CliRunner

from deployments.cli.app import app
from deployments.sharing.history import since_time
from tasks.base.errors import ConfigError


def said(*words):
    done = CliRunner().invoke(app, ["history", *words])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.stdout


def test_it_says_who_ran_what_where_and_what_came_of_it(history):
    found = json.loads(said("--format", "json", "--owner", "hist"))
    (row,) = found["runs"]
    assert (row["name"], row["flow"], row["device"], row["state"]) == (
        "=1+1",
        "train_classifier",
        "cuda:0",
        "Completed",
    )
    assert row["waited_s"] == pytest.approx(1, abs=0.9)
    assert row["ran_s"] == pytest.approx(2, abs=0.9)
    assert row["gpu_hours"] == pytest.approx(2 / 3600, abs=3e-4)
    assert (row["energy_wh"], row["peak_memory_mib"], row["gpu_busy_share"]) == (500.0, 9000.0, 0.8)
    assert (row["metric"], row["value"]) == ("accuracy/test", 0.9375)
    assert [(one["name"], one["runs"], one["energy_wh"]) for one in found["sums"]] == [("hist@boxa", 1, 500.0)]


def test_what_is_chosen_and_by_what_it_is_added_up(history):
    by_device = {one["name"]: one for one in json.loads(said("--format", "json", "--by", "device"))["sums"]}
    assert by_device["boxb/cuda:1"]["failed"] == 1
    assert by_device["cuda:0"]["energy_wh"] == 500
    assert {row["device"] for row in json.loads(said("--format", "json", "--device", "boxb/cuda:1"))["runs"]} == {
        "boxb/cuda:1"
    }
    assert not json.loads(said("--format", "json", "--flow", "housekeeping"))["runs"]
    assert said("--since", "2100-01-01") == "no run had a device since 2100-01-01\n"


def test_pandas_reads_the_sheet_and_no_name_is_a_formula(history):
    table = pd.read_csv(io.StringIO(said("--format", "csv", "--owner", "hist")))
    assert table.name.tolist() == ["'=1+1"]
    assert table.energy_wh.sum() == 500
    added = pd.read_csv(io.StringIO(said("--format", "csv", "--owner", "hist", "--by", "owner")))
    assert added.runs.tolist() == [1]


def test_people_read_a_table_with_the_sums_below(history):
    rows, added = said().split("\n\n")
    assert "500.0     9,000  Completed  accuracy/test 0.9375" in rows
    lines = added.splitlines()
    assert lines[0].split()[:4] == ["owner", "runs", "hours", "GPU"]
    assert any(line.startswith("hist@boxa") for line in lines)
    assert "(1 unknown)" in added
    assert lines[-1].startswith("all")


def test_without_mlflow_the_rest_is_there(history):
    os.environ["MLFLOW_TRACKING_URI"] = "http://127.0.0.1:9"
    done = CliRunner().invoke(app, ["history", "--format", "csv", "--owner", "hist"])
    assert pd.read_csv(io.StringIO(done.stdout)).energy_wh.tolist() == [500.0]
    assert "the results of the runs are not shown: cannot read the results of runs from MLflow" in done.stderr


def test_times_are_so_long_ago_or_dates():
    assert since_time("2026-11-01 08:00") == datetime(2026, 11, 1, 8).timestamp()
    assert since_time("7d") == pytest.approx(datetime.now().timestamp() - 7 * 86400, abs=5)
    with pytest.raises(ConfigError, match=r"^found the time \'soon\', need one such as 7d, 12h, 2026-11-01 or"):
        since_time("soon")
