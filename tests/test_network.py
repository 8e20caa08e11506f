"""No import asks the network: a lab without one would wait for the time-out, and nobody wants to be counted."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
# Packages ask for news or report who they are; each has a switch, which must not depend on who sets it outside.
SWITCHES = ("NO_ALBUMENTATIONS_UPDATE", "DO_NOT_TRACK", "MLFLOW_DISABLE_TELEMETRY", "PREFECT_SERVER_ANALYTICS_ENABLED")
IMPORT_ALL = """
import importlib, pkgutil, sys, threading, traceback
asked = []
def hook(name, args):
    if name in {"socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"}:
        asked.append(f"{name} {args[-1]} by {[frame.filename for frame in traceback.extract_stack()][:-1]}")
sys.addaudithook(hook)
for package in sys.argv[1:]:
    for module in pkgutil.walk_packages(importlib.import_module(package).__path__, f"{package}."):
        importlib.import_module(module.name)
threading.Event().wait(1)  # what they do in threads
print(*asked, sep="\\n")
assert not asked
"""


def test_no_import_asks_the_network(tmp_path):
    env = {name: value for name, value in os.environ.items() if name not in {*SWITCHES, "CI", "PREFECT_API_URL"}}
    env |= {"HOME": str(tmp_path), "TRAINYARD_HOME": str(tmp_path / "yard"), "PREFECT_HOME": str(tmp_path / "prefect")}
    packages = ["gpu_pools", "tasks", "flows", "deployments"]
    command = [sys.executable, "-c", IMPORT_ALL, *packages]
    done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
