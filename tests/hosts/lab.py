"""Several hosts in one, each with its own network, name, processes, locks, GPUs and clock.

All have one home, or, as where hosts share no disk, each its own.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil

from deployments.services.service import free_port
from tests.chaos.yard import ROOT, Yard

_NETWORK = f"10.77.{os.getpid() % 250 + 1}"  # two labs may run at once
SERVER, MOVED = f"{_NETWORK}.1", f"{_NETWORK}.2"
"""Addresses that the server has, one after the other; hosts know it by name."""
NAME = "server.lab"
WORKER = (sys.executable, "-m", "gpu_pools.worker.serve")
CLOCK = Path(__file__).with_name("clock.c")


def run(*command: str) -> None:
    """Run a command of the system, which must succeed."""
    subprocess.run(command, check=True, capture_output=True, text=True)


class Host:
    """A network namespace on the bridge of the lab.

    Args:
        name: of the host.
        number: from 0; its last two digits of the address.
        home: of the lab.
        ahead_s: seconds that its clock is ahead; negative: behind.
        apart: it shares no disk with the others.
    """

    def __init__(self, name: str, number: int, home: Path, ahead_s: int = 0, *, apart: bool = False) -> None:
        self.name = name
        self.home = home / "homes" / name if apart else home
        self._namespace, self._link = f"yard-{os.getpid()}-{name}", f"yv{os.getpid() % 10**6}{number}"
        self._names = Path("/etc/netns") / self._namespace / "hosts"
        self._address = f"{_NETWORK}.{10 + number}/24"
        self.env = {
            "TRAINYARD_HOME": str(self.home),
            "TRAINYARD_SHARED_DISK": "no" if apart else "yes",
            "TRAINYARD_HOST_LOST_AFTER": "10s",
            "TRAINYARD_LOCK_DIR": str(home / f"locks-{name}"),
            "TRAINYARD_SIMULATED_STATE": str(home / f"gpus-{name}.json"),
            "PREFECT_HOME": str(home / f"prefect-{name}"),
        }
        if ahead_s:
            library = home / "clock.so"
            run("cc", "-shared", "-fPIC", "-O1", "-o", str(library), str(CLOCK), "-ldl")
            self.env |= {"LD_PRELOAD": str(library), "CLOCK_AHEAD_S": str(ahead_s)}

    def make(self, bridge: str) -> None:
        """Make the namespace and its cable to the bridge."""
        run("ip", "netns", "add", self._namespace)
        run("ip", "link", "add", self._link, "type", "veth", "peer", "name", "eth0", "netns", self._namespace)
        run("ip", "link", "set", self._link, "master", bridge, "up")
        run("ip", "-n", self._namespace, "addr", "add", self._address, "dev", "eth0")
        for device in ("eth0", "lo"):
            run("ip", "-n", self._namespace, "link", "set", device, "up")
        self._names.parent.mkdir(parents=True, exist_ok=True)
        self.knows(SERVER)

    def knows(self, address: str) -> None:
        """Give the server's name another address."""
        # In place: processes of the host have this very file mounted.
        self._names.write_text(f"127.0.0.1 localhost {self.name}\n{address} {NAME}\n")

    def plug(self, *, cable: bool) -> None:
        """Put the cable in, or pull it out."""
        run("ip", "link", "set", self._link, "up" if cable else "down")

    def command(self, *words: str) -> list[str]:
        """Return what boots this host with a command; killed, the host and all on it is gone at once."""
        boot = 'hostname "$0"; "$@"; sleep infinity'
        spaces = ["unshare", "--uts", "--pid", "--mount-proc", "--fork", "--kill-child"]
        return ["ip", "netns", "exec", self._namespace, *spaces, "sh", "-c", boot, self.name, *words]

    def remove(self) -> None:
        """Remove the namespace; its cable goes with it."""
        subprocess.run(["ip", "netns", "del", self._namespace], check=False, capture_output=True)
        self._names.unlink(missing_ok=True)
        if self._names.parent.is_dir():
            self._names.parent.rmdir()


class Lab(Yard):
    """A server on a bridge, and a worker on each of some hosts."""

    def __init__(self, home: Path, port: int, hosts: Sequence[Host]) -> None:
        super().__init__(home, port, address=SERVER)
        self.hosts = {host.name: host for host in hosts}
        self._tracking: subprocess.Popen[bytes] | None = None
        self._bridge = f"yb{os.getpid() % 10**6}"

    def start_mlflow(self) -> None:
        """Start MLflow beside Prefect's server, for workers that are started from now on."""
        port, folder = free_port(), self.home / "mlflow"
        folder.mkdir()
        self.mlflow = f"http://{self.address}:{port}"
        self.env["MLFLOW_TRACKING_URI"] = f"http://{NAME}:{port}"
        where = [
            "--backend-store-uri",
            f"sqlite:///{folder}/mlflow.db",
            "--artifacts-destination",
            str(folder / "files"),
        ]
        address = ["--host", self.address, "--port", str(port), "--allowed-hosts", "*"]
        with (self.home / "mlflow.log").open("wb") as log:
            command = [sys.executable, "-m", "mlflow", "server", "--workers", "1", *where, *address]
            self._tracking = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)

    def make(self) -> None:
        """Make bridge and hosts."""
        run("ip", "link", "add", self._bridge, "type", "bridge")
        for address in (SERVER, MOVED):
            run("ip", "addr", "add", f"{address}/24", "dev", self._bridge)
        run("ip", "link", "set", self._bridge, "up")
        if self._is_filtered():
            run("iptables", "-I", *self._let_through)
        for host in self.hosts.values():
            host.make(self._bridge)

    @property
    def _let_through(self) -> tuple[str, ...]:
        return ("FORWARD", "-i", self._bridge, "-o", self._bridge, "-j", "ACCEPT")

    def _is_filtered(self) -> bool:
        """Return whether this machine drops what one host of a bridge sends to another one, as Docker lets it do."""
        switch = Path("/proc/sys/net/bridge/bridge-nf-call-iptables")
        return switch.is_file() and switch.read_text().strip() == "1"

    def start_host(self, name: str) -> None:
        """Boot a host with a worker."""
        self.workers[name] = self._start(name, self.hosts[name].command(*WORKER))

    def _start(self, name: str, command: Sequence[str]) -> "subprocess.Popen[bytes]":
        env = {**self.env, **self.hosts[name].env, "PREFECT_API_URL": f"http://{NAME}:{self.port}/api"}
        with (self.home / f"worker-{name}.log").open("wb") as log:
            return subprocess.Popen(command, env=env, stdout=log, stderr=log, cwd=ROOT, start_new_session=True)

    def init(self, name: str) -> psutil.Process:
        """Return the first process of a host that is up."""
        (init,) = psutil.Process(self.workers[name].pid).children()
        return init

    def kill_worker(self, name: str) -> None:
        """Kill the worker of a host, and nothing else there."""
        self.signal_worker(name, signal.SIGKILL)

    def signal_worker(self, name: str, number: signal.Signals) -> None:
        """Send a signal to the worker of a host, and to nothing else there."""
        locks = self.hosts[name].env["TRAINYARD_LOCK_DIR"]
        found = [each for each in psutil.process_iter(["cmdline"]) if each.info["cmdline"] == list(WORKER)]
        (worker,) = [each for each in found if each.environ().get("TRAINYARD_LOCK_DIR") == locks]
        worker.send_signal(number)

    def start_worker_again(self, name: str) -> "subprocess.Popen[bytes]":
        """Start a worker on a host that is up; it ends with the host."""
        spaces = ["nsenter", "--target", str(self.init(name).pid), "--uts", "--pid", "--mount", "--net"]
        return self._start(name, [*spaces, *WORKER])

    def move_server(self) -> None:
        """Start the server at another address, with the same database."""
        self.kill(self.server)
        self.address = MOVED
        self.api = f"http://{MOVED}:{self.port}/api"
        self.http.base_url = self.api
        self.start_server()
        for host in self.hosts.values():
            host.knows(MOVED)

    def remove(self) -> None:
        """Stop everything, and leave nothing of the network."""
        self.stop()
        if self._tracking is not None:
            os.killpg(self._tracking.pid, signal.SIGKILL)
            self._tracking.wait()
        for host in self.hosts.values():
            host.remove()
        subprocess.run(["ip", "link", "del", self._bridge], check=False, capture_output=True)
        if self._is_filtered():
            subprocess.run(["iptables", "-D", *self._let_through], check=False, capture_output=True)


@contextmanager
def lab(home: Path, port: int, *, apart: bool = False) -> Iterator[Lab]:
    """Run a lab for the block: boxa and boxb with two GPUs each.

    The clock of boxa is three minutes behind that of the server, the clock of boxb four minutes ahead.

    Args:
        home: of the lab.
        port: of Prefect's server.
        apart: the hosts share no disk.
    """
    hosts = [Host("boxa", 0, home, ahead_s=-180, apart=apart), Host("boxb", 1, home, ahead_s=240, apart=apart)]
    made = Lab(home, port, hosts)
    try:
        made.make()
        made.start_mlflow()
        made.start_server()
        for name in made.hosts:
            made.start_host(name)
        for name in made.hosts:
            made.until(lambda name=name: made.serves(name), 240, f"the worker of {name} serves")
        made.deploy_runs()
        yield made
    finally:
        made.remove()
