"""What MLflow has not got yet is found without it, and sent without being in anybody's way."""

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tasks.base.errors import TrackingError
from tasks.tracking import mlflow_api, uploader
from tasks.tracking.journal import Journal, is_wanted, sole_writer, writer_of
from tasks.tracking.tracker import Tracker
from tasks.tracking.unsent import Contents, contents, find_unsent
from tasks.tracking.uploader import upload

ROOT = Path(__file__).parents[3]

pytestmark = pytest.mark.usefixtures("at_home")


def left(folder: Path, *entries: dict) -> None:
    """Let a run end that MLflow has heard of, and leave lines behind it."""
    with Tracker.open(folder, "left", "r", {}):
        pass
    journal = Journal(folder)
    for entry in entries:
        journal.append(entry)
    journal.close()


ROW = {"op": "metrics", "time": 1, "step": 1, "values": {"a": 1.0, "b": 2.0}}


def test_runs_with_something_to_send_are_found_with_how_much(home):
    left(home / "runs" / "sent" / "training")
    left(home / "runs" / "some" / "training", ROW, {"op": "tags", "values": {"t": "1"}})
    with (home / "runs" / "sent" / "training" / "journal.jsonl").open("a") as file:
        file.write('{"op":"torn')
    (found,) = find_unsent()
    assert (found.run, found.folder.name, found.writer) == ("some", "training", None)
    assert contents(found) == Contents(n_rows=2, n_others=1)
    assert find_unsent("other") == []
    upload(found.folder)
    assert find_unsent() == []


def test_who_writes_a_run_is_known_and_keeps_it(tmp_path):
    code = (
        "import sys\nfrom pathlib import Path\nfrom tasks.tracking.journal import sole_writer\n"
        "with sole_writer(Path(sys.argv[1])):\n    print('held', flush=True)\n    sys.stdin.read()\n"
    )
    assert writer_of(tmp_path) is None
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout.readline() == "held\n"
        assert writer_of(tmp_path) == writer.pid
        with pytest.raises(TrackingError, match=f"process {writer.pid} still writes"), sole_writer(tmp_path, 0.3):
            pass
        threading.Timer(0.5, writer.stdin.close).start()
        begin = time.monotonic()
        with sole_writer(tmp_path, 30):
            assert time.monotonic() - begin > 0.2
    assert not is_wanted(tmp_path)


def test_who_sends_gives_way_to_who_goes_on(home, monkeypatch):
    folder = home / "runs" / "wanted" / "training"
    left(folder, *({"op": "tags", "values": {"t": str(n)}} for n in range(5)))
    send, sent = mlflow_api.send, []

    def slowly(*args):
        sent.append(args[-1])
        (folder / "writer.wanted").touch()
        send(*args)

    monkeypatch.setattr(uploader.mlflow_api, "send", slowly)
    with pytest.raises(TrackingError, match="another process goes on with the run"):
        upload(folder)
    assert len(sent) == 1
    monkeypatch.setattr(uploader.mlflow_api, "send", send)
    run_id = upload(folder)  # nobody waits any more
    assert mlflow_api.client().get_run(run_id).data.tags["t"] == "4"
