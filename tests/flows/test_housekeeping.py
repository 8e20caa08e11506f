"""Housekeeping by `yard run`, without any server: what a person sees and finds."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

YARD = Path(sys.executable).parent / "yard"


def yard(home, *words):
    unwanted = ("PREFECT_", "TRAINYARD_", "MLFLOW_TRACKING")
    environ = {name: value for name, value in os.environ.items() if not name.startswith(unwanted)}
    environ |= {"TRAINYARD_HOME": str(home), "TRAINYARD_LOCK_DIR": str(home / "locks"), "COLUMNS": "120"}
    done = subprocess.run([YARD, *words], capture_output=True, text=True, check=False, env=environ, cwd=home)
    return done.returncode, done.stdout + done.stderr


def receipts(home):
    return [json.loads(path.read_text()) for path in home.glob("runs/*/housekeeping/receipt.json")]


def test_a_dry_run_says_what_would_go_and_the_next_one_removes_it(tmp_path):
    cached = tmp_path / "cache" / "resize-v1-224" / "aa" / "old.rgb"
    cached.parent.mkdir(parents=True)
    cached.write_bytes(b"x" * 150_000)
    os.utime(cached, (time.time() - 7200,) * 2)
    code, said = yard(tmp_path, "run", "housekeeping", "--set", "dry_run=true", "--set", "keep.cache=0.1MB")
    assert code == 0, said
    assert "would free 151.6 kB: 1 cache" in said
    assert cached.exists()
    code, said = yard(tmp_path, "run", "housekeeping", "--set", "keep.cache=0.1MB")
    assert code == 0, said
    assert "cache: cache/resize-v1-224: 1 file: more than 100.0 kB; not used for 2 h" in said
    assert not cached.exists()
    dry, done = sorted(receipts(tmp_path), key=lambda one: not one["dry_run"])
    assert (dry["dry_run"], done["dry_run"]) == (True, False)
    assert dry["entries"][0]["bytes"] == done["entries"][0]["bytes"] == 151_552
    assert [row["rule"] for row in done["rules"] if row["removed"]] == ["cache"]


def test_a_value_that_is_none_is_refused_with_its_field(tmp_path):
    code, said = yard(tmp_path, "run", "housekeeping", "--set", "keep.cache=much")
    assert code == 1
    assert "keep.cache: found 'much'" in said
