"""What MLflow has not got yet is counted by reading what is new alone."""

import json

import pytest

from gpu_pools.watching.backlog import Backlog, BacklogCounter
from tasks.tracking.journal import Journal
from tasks.tracking.unsent import contents, find_unsent


@pytest.fixture
def journal(tmp_path, monkeypatch):
    """Yield the journal of a run of this home, with a beginning and three values."""
    monkeypatch.setenv("TRAINYARD_HOME", str(tmp_path))
    folder = tmp_path / "runs" / "one" / "training"
    folder.mkdir(parents=True)
    found = Journal(folder)
    found.append({"op": "begin"})
    found.append({"op": "metrics", "values": [1, 2, 3]})
    yield found
    found.close()


def agrees(counter):
    """Return the backlog, which is what those who send would say."""
    found = counter.count()
    assert found.n_rows == sum(contents(one).n_rows for one in find_unsent())
    return found


def test_rows_come_go_and_are_read_once(journal, monkeypatch):
    counter = BacklogCounter()
    assert agrees(counter) == Backlog(3, 1)
    journal.append({"op": "metrics", "values": [4]})
    assert agrees(counter) == Backlog(4, 1)
    ends = [end for _, end in journal.entries()]
    journal.mark_sent(ends[1])
    assert agrees(counter) == Backlog(1, 1)
    journal.append({"op": "metrics", "values": [5, 6]})
    journal.append({"op": "end"})
    journal.mark_sent(ends[2])
    assert agrees(counter) == Backlog(2, 1)
    journal.mark_sent(journal.path.stat().st_size)
    assert agrees(counter) == Backlog(0, 0)


def test_a_journal_that_began_anew_is_counted_anew(journal):
    counter = BacklogCounter()
    counter.count()
    journal.path.write_text(json.dumps({"op": "metrics", "values": [1]}) + "\n")
    assert counter.count() == Backlog(1, 1)


def test_torn_damaged_and_removed_lines_are_no_rows(journal):
    counter = BacklogCounter()
    with journal.path.open("a") as file:
        file.write('xyz\n{"op": "metrics", "val')
    assert counter.count() == Backlog(3, 1)
    with journal.path.open("a") as file:
        file.write('ues": [4, 5]}\n')
    assert counter.count() == Backlog(5, 1)
    journal.path.unlink()
    assert counter.count() == Backlog(0, 0)
