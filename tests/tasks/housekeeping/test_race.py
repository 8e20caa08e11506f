"""Housekeeping and starting runs, each a process of its own, meet on the same folders: no run loses its files."""

import os
import subprocess
import sys
import time

from tasks.housekeeping.params import KeepParams
from tasks.housekeeping.rounds import go_round

STARTER = """
import os, sys, time
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State, StateType
from gpu_pools.process import run_setup
from tasks.base.workspace import home

client = get_client(sync_client=True)
print("ready", flush=True)
sys.stdin.readline()
for run_id in sys.argv[1:]:
    fd = run_setup.lock_run(run_id)  # as the worker does: held first, then claimed
    if fd is None:
        print(run_id, "held", flush=True)
        continue
    there = (home() / "runs" / run_id / "training" / "best.pt").is_file()
    client.set_flow_run_state(run_id, State(type=StateType.PENDING), force=True)
    still = (home() / "runs" / run_id / "training" / "best.pt").is_file()
    held = os.path.samestat(os.fstat(fd), os.stat(run_setup.lock_path(run_id)))
    print(run_id, "gone" if not there else "whole" if still and held else "lost", flush=True)
    os.close(fd)
"""


def test_no_run_loses_its_files_to_a_round_that_began_before_it(yard):
    runs = [yard.run(keep="12h") for _ in range(60)]
    environ = {**os.environ, "TRAINYARD_HOME": str(yard.home), "PREFECT_API_URL": str(yard.client.api_url)}
    command = [sys.executable, "-c", STARTER, *reversed(runs)]
    with subprocess.Popen(command, env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as starter:
        assert starter.stdin is not None
        assert starter.stdout is not None
        assert starter.stdout.readline() == "ready\n"
        starter.stdin.write("go\n")
        starter.stdin.flush()
        time.sleep(0.1)
        receipt = go_round(KeepParams(records=None), time.time() + 13 * 3600, dry_run=False)
        lines = starter.communicate(timeout=120)[0].split("\n")
    found = dict(line.split() for line in lines if line)
    assert len(found) == len(runs)
    removed = {entry.what for entry in receipt.entries if entry.rule == "files"}
    assert "lost" not in found.values(), found
    assert {run_id for run_id, how in found.items() if how == "whole"}.isdisjoint(removed)
    assert {run_id for run_id, how in found.items() if how == "whole"}  # both were at it at the same time
    assert removed
