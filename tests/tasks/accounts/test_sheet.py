"""The sheet opens in a spreadsheet, which calculates nothing that came from a run's name."""

import csv
import io
from dataclasses import replace

import pandas as pd
import pytest

from tasks.accounts.account import sums
from tasks.accounts.sheet import write_sheet
from tests.tasks.accounts.test_account import account


def sheet(*rows):
    out = io.StringIO(newline="")
    write_sheet(rows, out)
    return out.getvalue()


def test_pandas_reads_numbers_as_numbers_and_times_as_times():
    text = sheet(account(), account(ended=None, state="RUNNING", began=1600.5))
    table = pd.read_csv(io.StringIO(text), parse_dates=["asked_utc", "began_utc", "ended_utc"])
    assert len(table) == 2
    assert table.gpu_hours.sum() == 2.0
    assert table.energy_wh.tolist() == [250.0, 250.0]
    assert str(table.began_utc[0]) == "1970-01-01 00:26:40"
    assert table.ended_utc.isna().tolist() == [False, True]
    assert table.failed.tolist() == [False, False]
    assert '"' not in text


@pytest.mark.parametrize("name", ['=cmd|"/c calc"!A0', "+1", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "a,b\n=1"])
def test_a_name_is_never_a_formula(name):
    text = sheet(account(run_name=name, owner=name))
    (row,) = csv.DictReader(io.StringIO(text, newline=""))
    for cell in (row["name"], row["owner"]):
        assert cell.endswith(" ".join(name.split()))
        assert not cell.startswith(("=", "+", "-", "@", "\t", "\r"))
    assert len(text.splitlines()) == 2


def test_a_negative_number_stays_one():
    (row,) = csv.DictReader(io.StringIO(sheet(replace(account(), value=-1.5))))
    assert row["value"] == "-1.5"


def test_sums_are_a_sheet_too_and_nothing_is_an_empty_one():
    assert sheet(*sums([account()], "owner")).splitlines()[1] == "anna@boxa,1,1.0,1.0,250.0,0,600.0,600.0,0"
    assert sheet() == ""
