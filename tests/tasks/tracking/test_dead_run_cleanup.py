"""After a run is gone for good: what is half written goes, MLflow knows how it ended, and all that is whole stays."""

import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tasks.base.workspace import replacing, run_dir, staged, write_json, write_step_info
from tasks.tracking import dead_run_cleanup, mlflow_api
from tasks.tracking.journal import read_card, write_card
from tasks.tracking.tracker import Tracker

ROOT = Path(__file__).parents[3]

pytestmark = pytest.mark.usefixtures("at_home")


def killed_while(folder: Path, code: str) -> None:
    """Run `code` in a process that dies by SIGKILL at its end, with `folder` as its argument."""
    imports = (
        "import os, signal, sys\nfrom pathlib import Path\nfrom tasks.base.workspace import replacing, staged\n"
        "from tasks.tracking.tracker import Tracker\nfolder = Path(sys.argv[1])\n"
    )
    done = subprocess.run([sys.executable, "-c", imports + code, str(folder)], cwd=ROOT, check=False)
    assert done.returncode == -9


KILL = "os.kill(os.getpid(), signal.SIGKILL)\n"


def everything(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


def test_what_was_half_written_goes_and_all_that_is_whole_stays(tmp_path):
    run = tmp_path / "run"
    with staged(run / "split") as folder:
        write_step_info(folder, {"data": "here"})
        (folder / "train" / "x.tmp").mkdir(parents=True)  # a class may be called so
        (folder / "train" / "x.tmp" / ".a.jpg.abcdefgh").write_text("an image with an odd name")
    write_json(run / "training" / "epochs" / "epoch-0001.pt", 1)
    with replacing(run / "training" / "checkpoint.pt") as file:
        file.write(b"state")
    (run / "tmp" / "deep").mkdir(parents=True)
    (run / "tmp" / "deep" / "file").write_text("x")
    whole = everything(run)
    killed_while(
        run,
        "with staged(folder / 'augmented') as stage:\n"
        "    (stage / 'train').mkdir()\n"
        "    with replacing(folder / 'training' / 'epochs' / 'epoch-0002.pt') as file:\n"
        "        file.write(b'half')\n        " + KILL,
    )
    (run / "training" / ".last.pt.tmp").write_text("half")
    assert len(everything(run) - whole) >= 4
    assert dead_run_cleanup.close(run, "KILLED") == []
    assert everything(run) == {name for name in whole if not name.startswith("tmp")}
    assert dead_run_cleanup.close(run, "KILLED") == []


def test_a_killed_run_is_sent_whole_and_gets_its_status_once():
    run = run_dir("killed")
    killed_while(
        run / "training",
        "tracker = Tracker.open(folder, 'closing', 'killed', {'lr': 1})\n"
        "tracker.flush()\ntracker._uploader.give_up()\n"  # what follows is written down, not sent
        "tracker.metrics({'loss': 0.5}, step=1)\n" + KILL,
    )
    assert dead_run_cleanup.close(run, "FAILED") == []
    (found,) = mlflow_api.client().search_runs([mlflow_api.client().get_experiment_by_name("closing").experiment_id])
    assert (found.info.status, found.data.metrics) == ("FAILED", {"loss": 0.5})
    assert dead_run_cleanup.close(run, "KILLED") == []
    assert mlflow_api.client().get_run(found.info.run_id).info.status == "FAILED"


def test_a_run_that_ended_by_itself_keeps_its_status(tmp_path):
    with Tracker.open(tmp_path / "run" / "training", "closing", "whole", {}) as tracker:
        pass
    assert dead_run_cleanup.close(tmp_path / "run", "KILLED") == []
    assert mlflow_api.client().get_run(tracker.run_id).info.status == "FINISHED"


@pytest.mark.parametrize("for_good", [False, True])
def test_a_run_that_someone_deleted_needs_no_end(tmp_path, capsys, for_good):
    folder = tmp_path / "run" / "training"
    with Tracker.open(folder, "closing", "deleted", {}) as tracker:
        tracker.leave_open()
    run_id = "f" * 32 if for_good else tracker.run_id
    card = read_card(folder)
    write_card(folder, replace(card, run_id=run_id))
    if not for_good:
        mlflow_api.client().delete_run(run_id)
    assert dead_run_cleanup.main([str(tmp_path / "run"), "KILLED"]) == 0
    assert capsys.readouterr().err == f"run {run_id} of {folder} was deleted in MLflow: nothing to end\n"


def test_a_damaged_journal_is_told_and_not_tried_for_ever(tmp_path, capsys):
    (tmp_path / "run").mkdir()
    with Tracker.open(tmp_path / "run" / "training", "closing", "damaged", {}) as tracker:
        tracker.leave_open()
    with (tmp_path / "run" / "training" / "journal.jsonl").open("a") as file:
        file.write("damaged\n")
    assert dead_run_cleanup.main([str(tmp_path / "run"), "KILLED"]) == 0
    assert "is damaged at byte" in capsys.readouterr().err


def test_a_folder_whose_process_lives_is_not_touched(tmp_path):
    with Tracker.open(tmp_path / "run" / "training", "closing", "alive", {}) as tracker:
        tracker.leave_open()
    (tmp_path / "run" / "split.tmp").mkdir()
    code = (
        "import sys\nfrom pathlib import Path\nfrom tasks.tracking.journal import sole_writer\n"
        "with sole_writer(Path(sys.argv[1])):\n    print('held', flush=True)\n    sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "run" / "training")]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout.readline() == "held\n"
        (fault,) = dead_run_cleanup.close(tmp_path / "run", "KILLED")
        writer.stdin.close()
    assert dead_run_cleanup.may_pass(fault)
    assert str(fault).startswith(f"process {writer.pid} still writes the run in")
    assert (tmp_path / "run" / "split.tmp").is_dir()
    assert dead_run_cleanup.close(tmp_path / "run", "KILLED") == []
    assert not (tmp_path / "run" / "split.tmp").exists()
    assert mlflow_api.client().get_run(tracker.run_id).info.status == "KILLED"


def test_there_need_be_no_folder(tmp_path):
    assert dead_run_cleanup.close(tmp_path / "nothing", "KILLED") == []


def test_the_command_says_in_one_line_that_mlflow_does_not_answer_and_can_be_called_again(tmp_path):
    with Tracker.open(tmp_path / "run" / "training", "closing", "later", {}) as tracker:
        tracker.leave_open()
    (tmp_path / "run" / "split.tmp").mkdir()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{probe.getsockname()[1]}"

    def call(**environment):
        command = [sys.executable, "-m", "tasks.tracking.dead_run_cleanup", str(tmp_path / "run"), "KILLED"]
        return subprocess.run(
            command, env=os.environ | environment, cwd=ROOT, capture_output=True, text=True, check=False
        )

    away = call(MLFLOW_TRACKING_URI=nobody)
    assert away.returncode == 1
    assert [line for line in away.stderr.splitlines() if tracker.run_id in line] == [away.stderr.splitlines()[-1]]
    assert not (tmp_path / "run" / "split.tmp").exists()
    back = call()
    assert (back.returncode, back.stdout) == (0, "")
    assert mlflow_api.client().get_run(tracker.run_id).info.status == "KILLED"
