"""Bookings as people make them: on a real server, at the same moment, without any server, and as the page says."""

import json
import re
import shlex
import subprocess
import sys
import time
from datetime import datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from deployments.api import connect
from deployments.sharing import bookings
from gpu_pools.names import host_name
from tasks.base.errors import ConfigError

BIN = Path(sys.executable).parent
PAGE = Path(__file__).parents[3] / "docs" / "sharing.md"
BERLIN = ZoneInfo("Europe/Berlin")
DAY = f"{datetime.now(BERLIN) + timedelta(days=30):%Y-%m-%d}"


@pytest.fixture
def home(server, tmp_path, monkeypatch):
    """A home that asks the server, which has no bookings."""
    monkeypatch.setenv("TRAINYARD_HOME", str(tmp_path))
    monkeypatch.setenv("PREFECT_API_URL", server)
    monkeypatch.setenv("TRAINYARD_OWNER", "anna@boxa")
    monkeypatch.setenv("TZ", "Europe/Berlin")
    yield tmp_path
    for row in listed():
        yard("bookings", "cancel", row["id"], "--force")


def started(*words):
    argv = [BIN / "yard", *words]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def yard(*words):
    process = started(*words)
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    return out


def refused(*words):
    process = started(*words)
    _, err = process.communicate(timeout=200)
    assert process.returncode == 1
    return err


def listed():
    return json.loads(yard("bookings", "--json"))


def test_the_example_of_the_page_books_lists_changes_and_cancels(home):
    block = re.search(r"^## Bookings.*?((?:^    yard [^\n]*\n)+)", PAGE.read_text(), re.M | re.S)[1]
    book, bookings, change, cancel = (line.strip() for line in block.strip().splitlines())
    day = re.search(r"\d{4}-\d\d-\d\d", book)[0]
    book = book.replace(day, DAY).replace("cuda:1", f"{host_name()}/cuda:1")  # boxb has one, too
    said = yard(*shlex.split(book)[1:])
    assert f"{host_name()}/cuda:1 is booked by anna from {DAY} 14:00 Europe/Berlin for 2 h, every week: " in said
    number = said.split()[-1]
    (line,) = yard(*shlex.split(bookings)[1:]).splitlines()[1:]
    assert line.split()[:6] == [number, f"{host_name()}/cuda:1", "anna", DAY, "14:00", "16:00"]
    assert "for 3 h, every week" in yard(*shlex.split(change.replace("ID", number))[1:])
    assert [(row["begin"][:16], row["end"][11:16]) for row in listed()] == [(f"{DAY}T14:00", "17:00")]
    assert "is cancelled" in yard(*shlex.split(cancel.replace("ID", number))[1:])
    assert yard("bookings") == "nothing is booked\n"


def test_of_six_who_book_the_same_time_at_the_same_moment_one_has_it(home):
    asked = ("book", "cuda:0", "--from", f"{DAY} 14:00", "--for", "2h")
    processes = [started(*asked, "--owner", f"p{number}") for number in range(6)]
    ends = [(process.communicate(timeout=280)[1], process.returncode) for process in processes]
    assert sorted(code for _, code in ends) == [0, 1, 1, 1, 1, 1]
    (row,) = listed()
    assert all(f"is booked by {row['owner']} from {DAY} 14:00 to 16:00" in said for said, code in ends if code)


def test_a_gpu_that_does_not_exist_is_not_booked(home):
    when = ("--from", f"{DAY} 14:00", "--for", "2h")
    assert "found no device 'cuda:7' for training, have: " in refused("book", "cuda:7", *when)
    assert "found device 'cpu', need one GPU" in refused("book", "cpu", *when)
    assert "found no device 'boxb/cuda:0'" in refused("book", "boxb/cuda:0", *when)
    both = " and ".join(sorted(["boxb", host_name()]))
    assert f"found device 'cuda:1', which {both} have" in refused("book", "cuda:1", *when)
    assert "found no time, need both" in refused("book", "cuda:0")


def test_a_booking_is_its_owners(home, monkeypatch):
    yard("book", "cuda:0", "--from", f"{DAY} 14:00", "--for", "2h")
    number = listed()[0]["id"]
    monkeypatch.setenv("TRAINYARD_OWNER", "ben@boxa")
    assert "belongs to anna: only its owner may cancel it, and you are ben@boxa" in refused(
        "bookings", "cancel", number
    )
    (home / "yard.yaml").write_text("admins: [ben]\n")
    yard("bookings", "change", number, "--from", f"{DAY} 15:00", "--every", "day")
    (row,) = listed()
    assert (row["begin"][11:16], row["end"][11:16], row["every"]) == ("15:00", "17:00", "day")
    acts = [line for line in yard("audit").splitlines() if number in line]
    assert [re.findall("anna@boxa|ben@boxa|refused|done", line) for line in acts] == [
        ["anna@boxa", "done"],
        ["ben@boxa", "refused"],
        ["ben@boxa", "done"],
    ]


def test_who_would_book_more_than_people_may_is_told_so_and_an_admin_may(home, monkeypatch):
    (home / "yard.yaml").write_text("admins: [ben]\nbookings:\n  hours_a_week: 3\n")

    def book(tag, hour, owner=None):
        asked = bookings.Asked(f"{DAY} {hour}:00", "2h")
        return bookings.book(api, f"{host_name()}/{tag}", owner, asked, time.time())

    with connect() as api:
        made = [book("cuda:0", 14)]
        with pytest.raises(ConfigError, match="found 4 h of anna in the week from Monday .* need 3 h at most"):
            book("cuda:1", 15)
        monkeypatch.setenv("TRAINYARD_OWNER", "ben@boxa")
        made.append(book("cuda:1", 15, "anna"))
        assert {row.id for row in bookings.rows(api, time.time())} == {one.id for one in made}
        for one in made:
            bookings.cancel(api, one.id, time.time())


def test_devices_and_status_show_the_next_booking_of_each(home):
    for hour in (16, 14):
        yard("book", f"{host_name()}/cuda:1", "--from", f"{DAY} {hour}:00", "--for", "2h")
    assert f"booked  by anna from {DAY} 14:00 to 16:00" in yard("devices")
    status = started("status").communicate(timeout=100)[0]
    assert f"booking   {host_name()}/cuda:1 is booked by anna from {DAY} 14:00 to 16:00\n" in status


def test_without_a_server_a_run_in_a_terminal_obeys_too(tmp_path, monkeypatch):
    for name in ("PREFECT_API_URL", "PREFECT_HOME", "MLFLOW_TRACKING_URI", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TRAINYARD_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TRAINYARD_LOCK_DIR", str(tmp_path / "locks"))
    monkeypatch.setenv("TRAINYARD_SIMULATE_GPUS", "2")
    yard("book", "cuda:0", "--from", "now", "--for", "1h", "--owner", "carl")
    command = ("--when-busy", "refuse", "--", "printenv", "CUDA_VISIBLE_DEVICES")
    assert "cuda:0 is booked by carl until " in refused("exec", "--device", "cuda:0", *command)
    assert yard("exec", "--device", "cuda", *command) == "GPU-simulated-1\n"
    monkeypatch.setenv("TRAINYARD_OWNER", "carl@boxa")
    assert yard("exec", "--device", "cuda:0", *command) == "GPU-simulated-0\n"
