"""A signal is a wish: nothing is raised where it arrives, only where the run looks for it or waits."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BEFORE = """
import os, signal, sys, threading, time
from gpu_pools.stopping import asked, look, obey, pause
from tasks.base.errors import Interrupted
def send(*numbers):
    for number in numbers:
        os.kill(os.getpid(), number)
        time.sleep(0.2)
"""


def said(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", BEFORE + code], capture_output=True, text=True, cwd=ROOT, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_signal_is_raised_where_the_run_looks_and_nowhere_else(name):
    code = f"""
def work():
    send(signal.{name})
    print("goes on", asked().name)
    look()
try:
    obey(work)
except Interrupted as exc:
    print(exc)
"""
    assert said(code) == f"goes on {name}\nstopped by {name}"


def test_a_file_is_written_whole_while_the_signal_comes(tmp_path):
    code = f"""
import torch
from pathlib import Path
from tasks.run.checkpoint import save_tensors
stop = threading.Event()
def hail():
    while not stop.wait(0.001):
        os.kill(os.getpid(), signal.SIGTERM)
def work():
    hailing = threading.Thread(target=hail)
    hailing.start()
    for number in range(20):
        save_tensors(Path({str(tmp_path)!r}, "a.pt"), {{"w": torch.full((500_000,), float(number))}})
    print(float(torch.load({str(tmp_path / "a.pt")!r})["w"][-1]), asked() is not None)
    stop.set()
    hailing.join()
obey(work)
"""
    assert said(code) == "19.0 True"


def test_who_waits_is_woken_at_once():
    code = """
def work():
    threading.Timer(0.3, send, [signal.SIGTERM]).start()
    pause(30)
begun = time.monotonic()
try:
    obey(work)
except Interrupted:
    print(time.monotonic() - begun < 5)
"""
    assert said(code) == "True"


def test_the_result_and_the_error_of_the_work_are_those_of_the_call():
    code = """
import contextvars
name = contextvars.ContextVar("name")
name.set("of the caller")
print(obey(lambda: name.get()), obey(lambda: threading.current_thread() is threading.main_thread()))
try:
    obey(lambda: [][0])
except IndexError:
    print("IndexError")
print(signal.getsignal(signal.SIGTERM) == signal.SIG_DFL)
"""
    assert said(code) == "of the caller False\nIndexError\nTrue"


def test_a_second_ctrl_c_waits_for_nobody_and_one_that_is_sent_twice_is_one():
    code = """
told = []
def work():
    send(signal.SIGINT, signal.SIGINT)
    print("goes on")
    time.sleep(0.8)
    send(signal.SIGINT)
    time.sleep(60)
try:
    obey(work, on_signal=lambda: told.append(1))
except KeyboardInterrupt:
    print(told)
    sys.stdout.flush()
    os._exit(0)
"""
    begun = time.monotonic()
    assert said(code) == "goes on\n[1]"
    assert time.monotonic() - begun < 40


SLOW_SERVER = """
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
class Slow(BaseHTTPRequestHandler):
    def do_GET(self):
        time.sleep(1.5)
        body = b'{"run": {"info": {"run_id": "r"}, "data": {}}}' if "mlflow" in self.path else b'"3.9.1"'
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.send_header("content-type", "application/json")
        self.end_headers()
        self.wfile.write(body)
    do_POST = do_GET
    def log_message(self, *args): pass
server = ThreadingHTTPServer(("127.0.0.1", 0), Slow)
threading.Thread(target=server.serve_forever, daemon=True).start()
address = f"http://127.0.0.1:{server.server_port}"
"""
LIBRARY_CALLS = {
    "torch's loader": """
import torch
class Slow(torch.utils.data.Dataset):
    def __len__(self): return 4
    def __getitem__(self, i):
        time.sleep(0.4)
        return torch.full((2,), float(i))
def call():
    return sum(len(batch) for batch in torch.utils.data.DataLoader(Slow(), batch_size=1, num_workers=1)) == 4
""",
    "MLflow's client": SLOW_SERVER
    + """
from mlflow import MlflowClient
def call():
    return MlflowClient(address).get_run("r").info.run_id == "r"
""",
    "Prefect's client": SLOW_SERVER
    + """
os.environ["PREFECT_API_URL"] = address + "/api"
from prefect.client.orchestration import get_client
def call():
    with get_client(sync_client=True) as client:
        return client.hello().status_code == 200
""",
    "a copy of a large file": """
import shutil
from pathlib import Path
Path("large").write_bytes(b"")
os.truncate("large", 600 * 2**20)
def call():
    until = time.monotonic() + 1.5
    while time.monotonic() < until:
        shutil.copyfile("large", "copy")
    return os.path.getsize("copy") == 600 * 2**20
""",
    "an extension that holds Python's lock": """
import ctypes
held = ctypes.PyDLL(None)  # unlike CDLL it keeps the lock
def call():
    return held.sleep(2) == 0
""",
}


@pytest.mark.parametrize("name", LIBRARY_CALLS)
def test_a_signal_inside_a_library_breaks_nothing_and_ends_the_run_after_it(name, tmp_path, monkeypatch):
    code = f"""
os.chdir({str(tmp_path)!r})
{LIBRARY_CALLS[name]}
from tasks.run.stop_request import ended_by_signal
import logging
def work():
    # Sent by another process: one of this would wait for Python's lock, too.
    subprocess.Popen(["sh", "-c", f"sleep 0.5; kill -TERM {{os.getpid()}}"])
    with ended_by_signal(logging.getLogger("run")):
        whole = call()
        pause(1)
        print("goes on")
import subprocess
said = []
real = call
def call():
    said.append(real())
    return said[-1]
try:
    obey(work)
except Interrupted as exc:
    print(said, exc)
"""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    assert said(code) == "[True] stopped by SIGTERM"
