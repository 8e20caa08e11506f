"""What `yard doctor` says of made-up machines, and of this one."""

import json
import os
import pwd
import socket
import subprocess
import sys
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from deployments.machine import doctor
from deployments.machine.accounts import open_to, other_people
from deployments.machine.doctor import Check, judge, lines
from deployments.machine.requirements import Gpu, Gsplat, Listener, Machine, Postgres, listeners, lock_note, unwritable
from deployments.machine.slurm import SlurmFacts
from deployments.machine.toolchain import Toolkit, Tools
from tasks.base.processes import identity
from tasks.base.servers.alive import pid_file
from tasks.base.servers.password import make_password

YARD = Path(sys.executable).parent / "yard"
H200 = Gpu("cuda:0", "NVIDIA H200", "9.0", 143771, simulated=False)
TOOLS = Tools(
    "13.2", (Toolkit(Path("/cuda"), "13.0"),), Path("/usr/bin/c++"), Path("/usr/bin/ninja"), Path("/py/Python.h")
)
WELL = Machine(
    python=(3, 11, 7),
    torch="2.15.0",
    torch_fault="",
    driver="580.65 (CUDA 13.0)",
    driver_fault="",
    gpus=(H200,),
    gsplat=Gsplat("1.5.3", False, frozenset({"9.0"})),
    tools=TOOLS,
    postgres=Postgres("postgres", False, ("15",), "", ""),
    home="/yard",
    home_fault="",
    free_mib=50000,
    roots="/data",
    open_to="",
    lock_dir="/run/lock/trainyard",
    lock_fault="",
    ports=(Listener(4200, "prefect", "", False), Listener(5000, "mlflow", "", False)),
    numba_cache="/cache",
    encoder_fault="",
)
NO_TOOLS = Tools("13.2", (), None, None, None)
WITHOUT_GPU = replace(WELL, driver=None, gpus=(), gsplat=Gsplat(None, False, frozenset()), tools=NO_TOOLS)


def one(machine: Machine, name: str) -> Check:
    (found,) = [check for check in judge(machine) if check.name == name]
    return found


def stopping(machine: Machine) -> list[str]:
    return [check.name for check in judge(machine) if check.stops]


def test_a_machine_that_has_all_of_it_has_nothing_to_do():
    assert {check.state for check in judge(WELL)} == {"ok"}
    assert not [check for check in judge(WELL) if check.todo]
    assert list(lines(judge(WELL)))[-1] == (
        "This machine can: train and predict on 1 GPU (NVIDIA H200, 140 GiB) and the CPU, "
        "fit splats on the GPU and the CPU"
    )


def test_without_a_gpu_all_that_a_gpu_needs_is_a_warning():
    unwell = {check.name: check.state for check in judge(WITHOUT_GPU) if check.state != "ok"}
    assert unwell == dict.fromkeys(["driver", "gsplat", "nvcc", "g++", "ninja", "Python.h"], "warning")
    assert not stopping(WITHOUT_GPU)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"python": (3, 14, 0)}, "Python"),
        ({"python": (3, 10, 9)}, "Python"),
        ({"torch": None}, "torch"),
        ({"torch_fault": "does not load: libcudnn.so.9: cannot open shared object file"}, "torch"),
        ({"postgres": Postgres("postgres", False, (), "", "the runs are in a PostgreSQL 14")}, "PostgreSQL"),
        ({"free_mib": 255}, "home"),
        ({"home_fault": "this user cannot write in /"}, "home"),
        ({"lock_fault": "found /run/lock/trainyard with mode drwxr-xr-x"}, "locks"),
        ({"ports": (Listener(4200, "prefect", "", True),)}, "port 4200"),
        ({"encoder_fault": "PyAV has no libx264: libx264"}, "H.264"),
    ],
)
def test_what_the_services_or_the_cpu_need_stops_and_says_what_to_do(change, name):
    machine = replace(WITHOUT_GPU, **change)
    assert stopping(machine) == [name]
    assert one(machine, name).todo
    *_, needs, last = lines(judge(machine))
    assert needs == f"`yard up` and trainings on the CPU need: {name}"
    assert one(machine, name).todo in last
    assert ("neither train nor predict yet" in last) == (name != "port 4200")


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"driver_fault": "NVIDIA's driver says Driver/library version mismatch", "gpus": ()}, "driver"),
        ({"driver": "535.54 (CUDA 12.2)"}, "driver"),
        ({"gsplat": Gsplat("1.5.3", False, frozenset({"8.6"}))}, "kernels of cuda:0"),
    ],
)
def test_what_only_the_gpu_needs_is_missing_and_stops_nothing(change, name):
    machine = replace(WELL, **change)
    assert one(machine, name).state == "missing"
    assert one(machine, name).todo
    assert not stopping(machine)


A100 = Gpu("cuda:1", "NVIDIA A100", "8.0", 81920, simulated=False)
SIMULATED = Gpu("cuda:0", "simulated GPU 0", "9.0", 24000, simulated=True)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"gpus": (), "driver": None}, "train and predict on the CPU, fit splats on the CPU"),
        (
            {"gpus": (SIMULATED, SIMULATED), "driver": None},
            "train and predict on the CPU, fit splats on the CPU (2 simulated GPUs: computed on the CPU)",
        ),
        (
            {"gpus": (H200, A100)},
            "train and predict on 2 GPUs (1 x NVIDIA H200, 140 GiB; 1 x NVIDIA A100, 80 GiB) and the CPU, "
            "fit splats on 1 GPU and the CPU; not yet: splats on 1 GPU (`yard kernels build`)",
        ),
        (
            {"gsplat": Gsplat(None, False, frozenset())},
            "train and predict on 1 GPU (NVIDIA H200, 140 GiB) and the CPU, fit splats on the CPU; "
            "not yet: splats on 1 GPU (install gsplat, then `yard kernels build`)",
        ),
        (
            {"driver": "535.54 (CUDA 12.2)"},
            "train and predict on the CPU, fit splats on the CPU; not yet: 1 GPU (torch needs a driver of CUDA 13: "
            "install a newer one, or a torch built with CUDA 12)",
        ),
    ],
)
def test_the_last_line_says_what_the_machine_can_do(change, said):
    checks = judge(replace(WELL, **change))
    assert list(lines(checks))[-1] == checks[-1].found == f"This machine can: {said}"
    assert checks[-1].state == ("warning" if "not yet" in said else "ok")


def test_unset_roots_and_other_people_s_accounts_are_said_and_stop_nothing():
    machine = replace(WELL, roots="", open_to=open_to(["anna", "ben"]))
    assert (one(machine, "roots").state, one(machine, "roots").found) == ("warning", "TRAINYARD_ALLOWED_ROOTS is unset")
    assert one(machine, "access").found == "whoever has an account here (anna, ben) can command the yard"
    assert one(machine, "access").todo == "`yard auth init` makes Prefect and MLflow ask for one"
    assert not stopping(machine)


def test_people_are_those_who_log_in(tmp_path, monkeypatch):
    monkeypatch.setenv("TRAINYARD_HOME", str(tmp_path))
    names = [
        ("root", 0, "bash"),
        ("www", 33, "bash"),
        ("anna", 1000, "zsh"),
        ("ci", 1001, "nologin"),
        ("nobody", 65534, "sh"),
    ]
    rows = [pwd.struct_passwd((name, "x", uid, uid, "", "/", f"/bin/{shell}")) for name, uid, shell in names]
    assert other_people(rows) == ["anna"]
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert other_people(rows) == []
    assert "can command the yard" in open_to(["ben"])
    make_password()
    assert open_to(["ben"]) == open_to([]) == ""


def test_a_shared_folder_of_locks_that_is_not_root_s_is_a_warning(tmp_path, monkeypatch):
    monkeypatch.delenv("TRAINYARD_LOCK_DIR", raising=False)
    if os.geteuid() == 0:
        assert lock_note(tmp_path, ["ben"]) == ""
        os.chown(tmp_path, 1000, -1)
    note = lock_note(tmp_path, ["ben"])
    assert note.startswith(f"{tmp_path} belongs to user {tmp_path.stat().st_uid}, so that the other accounts here")
    assert one(replace(WELL, lock_note=note), "locks").state == "warning"
    assert not stopping(replace(WELL, lock_note=note))
    assert lock_note(tmp_path, []) == ""
    monkeypatch.setenv("TRAINYARD_LOCK_DIR", str(tmp_path))
    assert lock_note(tmp_path, ["ben"]) == ""


@pytest.mark.parametrize(("code", "said"), [(401, ""), (200, "`yard down` and `yard up`, as its server began before")])
def test_the_running_server_says_whether_it_asks_for_a_password(tmp_path, monkeypatch, code, said):
    monkeypatch.setenv("TRAINYARD_HOME", str(tmp_path))
    make_password()

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self):
            assert "Authorization" not in self.headers
            self.send_response(code)
            self.end_headers()

    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        (tmp_path / "services.json").write_text(json.dumps({"prefect": url, "mlflow": url}))
        pid_file().write_text(json.dumps({"pid": os.getpid(), "created": identity(os.getpid())}))
        assert said in (found := open_to(["ben"]))
        assert bool(found) == bool(said)


def test_an_old_driver_is_told_what_torch_needs():
    todo = one(replace(WELL, driver="535.54 (CUDA 12.2)"), "driver").todo
    assert todo == "torch needs a driver of CUDA 13: install a newer one, or a torch built with CUDA 12"


def test_tools_are_missing_only_where_kernels_are():
    built = replace(WELL, tools=NO_TOOLS)
    assert one(built, "nvcc").state == "warning"
    unbuilt = replace(built, gsplat=Gsplat("1.5.3", False, frozenset()))
    assert one(unbuilt, "nvcc").state == "missing"
    assert "nvidia-cuda-nvcc==13.2.*" in one(unbuilt, "nvcc").todo
    own = replace(built, gsplat=Gsplat("1.5.3", True, frozenset()))
    assert one(own, "nvcc").state == "warning"
    assert one(own, "kernels of cuda:0").state == "ok"


def test_little_room_is_a_warning_before_it_is_a_fault():
    assert [one(replace(WELL, free_mib=mib), "home").state for mib in (256, 1023, 1024)] == ["warning", "warning", "ok"]


def test_a_port_of_this_homes_own_services_is_well_taken():
    ours = replace(WELL, ports=(Listener(4200, "prefect", "http://127.0.0.1:4201", True),))
    assert one(ours, "port 4200").state == "ok"
    assert "http://127.0.0.1:4201" in one(ours, "port 4200").found


def test_sqlite_is_a_warning_unless_it_was_asked_for():
    by_need = Postgres("sqlite", False, (), "SQLite is for one person", "")
    assert one(replace(WELL, postgres=by_need), "PostgreSQL").state == "warning"
    assert one(replace(WELL, postgres=replace(by_need, forced=True)), "PostgreSQL").state == "ok"


# This machine.


@pytest.fixture
def environ(tmp_path):
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("TRAINYARD_S", "TRAINYARD_D"))}
    return {**kept, "TRAINYARD_HOME": str(tmp_path / "home")}


def examine(environ: dict[str, str]) -> tuple[int, dict[str, dict[str, object]]]:
    done = subprocess.run([YARD, "doctor", "--json"], capture_output=True, text=True, env=environ, check=False)
    assert not done.stderr
    return done.returncode, {check["name"]: check for check in json.loads(done.stdout)}


def test_this_machine_is_looked_at_and_the_exit_code_follows(environ):
    began = os.times()
    code, checks = examine(environ)
    ended = os.times()
    # Processor time, not the clock: tests may share the cores with others.
    assert ended.children_user + ended.children_system - began.children_user - began.children_system < 8
    for name in ("Python", "torch", "home", "locks", "numba", "H.264"):
        assert checks[name]["state"] == "ok", checks[name]
    assert code == int(any(check["needed"] and check["state"] == "missing" for check in checks.values()))
    assert checks["locks"]["found"] == os.environ["TRAINYARD_LOCK_DIR"]
    assert not Path(environ["TRAINYARD_HOME"]).exists()  # looking changes nothing


def test_simulated_gpus_are_called_so(environ):
    _, checks = examine({**environ, "TRAINYARD_SIMULATE_GPUS": "2"})
    for tag, name in (("cuda:0", "simulated GPU 0"), ("cuda:1", "simulated GPU 1")):
        assert checks[tag]["found"] == f"{name}: no such hardware"
        assert checks[tag]["state"] == "warning"
        assert f"kernels of {tag}" not in checks
    assert "2 simulated GPUs: computed on the CPU" in checks["abilities"]["found"]


def test_a_port_that_somebody_has_is_seen(monkeypatch, tmp_path):
    monkeypatch.setenv("TRAINYARD_HOME", str(tmp_path))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        assert listeners({"prefect": port}) == (Listener(port, "prefect", "", True),)
    assert listeners({"prefect": port}) == (Listener(port, "prefect", "", False),)


def test_a_folder_that_cannot_be_written_is_named(as_nobody):
    folder, call = as_nobody
    closed = folder / "closed"
    closed.mkdir(mode=0o555)
    assert call(unwritable, closed / "yard" / "deeper") == f"this user cannot write in {closed}"
    assert call(unwritable, folder / "yard") == ""
    (folder / "file").write_text("")
    assert unwritable(folder / "file" / "yard") == f"{folder / 'file'} is no folder"


def test_the_bounds_of_python_are_those_of_the_project():
    text = (Path(doctor.__file__).parents[2] / "pyproject.toml").read_text()
    (first, last) = doctor.PYTHONS
    assert f'requires-python = ">={first[0]}.{first[1]},<{last[0]}.{last[1] + 1}"' in text


@pytest.mark.parametrize(
    ("facts", "state", "word"),
    [
        (SlurmFacts(("sbatch",), "/etc/slurm/slurm.conf"), "missing", "sbatch"),
        (SlurmFacts((), ""), "warning", "no configuration"),
        (SlurmFacts((), "/c", "does not answer: Unable to contact slurm controller"), "missing", "Unable to contact"),
        (SlurmFacts((), "/c", nodes=("a", "b")), "warning", "2 nodes, 0 GPUs"),
        (SlurmFacts((), "/c", nodes=("a",), n_gpus=4, down=("a",)), "warning", "down: a"),
        (SlurmFacts((), "/c", nodes=("a",), n_gpus=4, api="http://127.0.0.1:4200/api"), "warning", "127.0.0.1"),
        (SlurmFacts((), "/c", nodes=("a",), n_gpus=4), "ok", "1 node, 4 GPUs, by /c"),
    ],
)
def test_what_is_wrong_with_slurm_is_said(facts, state, word):
    found = one(replace(WELL, slurm=facts), "Slurm")
    assert found.state == state
    assert word in found.found
    assert bool(found.todo) == (state != "ok")
    assert not found.needed


def test_without_slurm_nothing_is_said_of_it():
    assert not [check for check in judge(WELL) if check.name == "Slurm"]
