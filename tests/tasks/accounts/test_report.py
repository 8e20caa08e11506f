"""The report: a sentence, a table of owners that no name breaks, a page that stands alone, the sheets."""

import re
from datetime import UTC, timedelta, timezone

import pandas as pd

from gpu_pools.slots.use import SlotUse
from tasks.accounts.report import make_report, short, write_files
from tests.tasks.accounts.test_account import account

DAY = 86400.0


def report(*accounts, zone=UTC):
    return make_report(accounts, 0.0, DAY, zone)


def test_the_sentence_has_the_sums_of_the_time_alone():
    inside = account(asked=1000.0, began=1600.0, ended=5200.0)
    reaching = account(began=-3600.0, ended=3600.0, ran_s=7200.0, owner="ben@boxa", state="FAILED", slot=SlotUse())
    outside = account(began=-9000.0, ended=-5000.0, run_id="r2")
    found = report(inside, reaching, outside)
    assert found.sentence() == (
        "2 runs of 2 owners: 2.0 GPU hours, 250 Wh (1 of the runs did not tell); median wait 5 min, longest 10 min; "
        "1 failed."
    )
    assert found.figures()["report/gpu_hours"] == 2.0
    assert len(found.accounts) == 2
    assert report().sentence() == "No run had a device."


def test_the_title_is_in_the_zone_of_who_reads_it():
    title = report(zone=timezone(timedelta(hours=1), "CET")).title
    assert title == "Who had which device, 01 Jan 1970 01:00 to 02 Jan 1970 01:00 (CET)"


def test_no_name_breaks_the_table_or_the_page():
    evil = 'x|y](javascript:alert(1)) <script>alert("a")</script>\n# b'
    found = report(account(owner=evil), account(owner="ben"))
    markdown = found.markdown(b"png")
    rows = [line for line in markdown.splitlines() if line.startswith("| ")]
    assert [row.count("|") for row in rows] == [9] * 4  # the heads, two owners, all
    assert "<script" not in markdown
    assert "](javascript" not in markdown
    assert "<script" not in found.page(b"png")
    assert "![who had which device](data:image/png;base64," in markdown


def test_the_files_are_a_page_that_stands_alone_a_picture_and_two_sheets(tmp_path):
    files = write_files(report(account()), tmp_path)
    assert [path.name for path in files] == ["occupation.png", "runs.csv", "owners.csv", "report.html"]
    assert pd.read_csv(tmp_path / "owners.csv").energy_wh.tolist() == [250.0]
    assert pd.read_csv(tmp_path / "runs.csv").name.tolist() == ["rfuav"]
    page = (tmp_path / "report.html").read_text()
    assert not re.findall(r"(?:src|href)=\"(?!data:)", page)


def test_times_are_as_people_read_them():
    assert [short(seconds) for seconds in (0.2, 59, 90, 11400)] == ["0 s", "59 s", "2 min", "3 h 10 min"]
