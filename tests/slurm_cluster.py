"""A real Slurm on the loopback address, with faked GPUs; `python -m tests.slurm_cluster FOLDER` starts one."""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from deployments.services.service import free_port

_NVIDIA = 195  # the number of the device files of NVIDIA's driver; Slurm takes no other kind of file for a GPU
_PATIENCE_S = 60


class SlurmCluster:
    """One controller and one node, as root, without systemd, cgroups and accounting.

    Args:
        folder: of all that it writes.
        n_gpus: faked; as files of devices that nothing answers for.
        n_cpus: that the node claims to have.
        kill_wait_s: from SIGTERM to SIGKILL at the end of a job.
    """

    def __init__(self, folder: Path, n_gpus: int = 2, n_cpus: int = 8, kill_wait_s: int = 30) -> None:
        self.folder, self._n_gpus = folder, n_gpus
        self.conf = folder / "slurm.conf"
        self.env = {"SLURM_CONF": str(self.conf)}
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}
        for name in ("state", "spool", "dev"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(n_gpus):
            path = folder / "dev" / f"nvidia{number}"
            if not path.exists():
                os.mknod(path, 0o600 | 0o020000, os.makedev(_NVIDIA, number))
        key = folder / "munge.key"
        if not key.exists():
            key.write_bytes(secrets.token_bytes(1024))
            key.chmod(0o400)
        folder.chmod(0o755)
        self.conf.write_text("\n".join(self._settings(n_cpus, kill_wait_s)) + "\n")
        gpus = f"NodeName={_host()} Name=gpu Count={n_gpus} File={folder}/dev/nvidia[0-{n_gpus - 1}]\n"
        (folder / "gres.conf").write_text(gpus)

    def _settings(self, n_cpus: int, kill_wait_s: int) -> Iterator[str]:
        host = _host()
        yield from ("ClusterName=test", f"SlurmctldHost={host}(127.0.0.1)", "SlurmUser=root", "SlurmdUser=root")
        yield from ("AuthType=auth/munge", "CredType=cred/munge")
        # A requeued job rests until credentials of its first start have expired: two minutes unless told otherwise.
        yield f"AuthInfo=socket={self.folder}/munge.socket,cred_expire=5"
        yield from (f"SlurmctldPort={free_port()}", f"SlurmdPort={free_port()}")
        yield from (f"StateSaveLocation={self.folder}/state", f"SlurmdSpoolDir={self.folder}/spool")
        yield from (f"SlurmctldPidFile={self.folder}/ctld.pid", f"SlurmdPidFile={self.folder}/d.pid")
        yield from (f"SlurmctldLogFile={self.folder}/ctld.log", f"SlurmdLogFile={self.folder}/d.log")
        yield from (
            "ProctrackType=proctrack/linuxproc",
            "TaskPlugin=task/none",
            "JobAcctGatherType=jobacct_gather/none",
        )
        yield from ("SelectType=select/cons_tres", "SelectTypeParameters=CR_Core_Memory", "GresTypes=gpu")
        yield from (
            "MpiDefault=none",
            "ReturnToService=2",
            f"KillWait={kill_wait_s}",
            "SchedulerParameters=sched_interval=1",
        )
        yield "SlurmdParameters=config_overrides"  # the node may claim more cores than this machine has
        node = f"NodeAddr=127.0.0.1 CPUs={n_cpus} RealMemory=64000 Gres=gpu:{self._n_gpus} State=UNKNOWN"
        yield f"NodeName={host} {node}"
        yield from ("PreemptType=preempt/partition_prio", "PreemptMode=REQUEUE")
        yield f"PartitionName=gpus Nodes={host} Default=YES MaxTime=INFINITE State=UP PriorityTier=1"
        yield f"PartitionName=urgent Nodes={host} MaxTime=INFINITE State=UP PriorityTier=10"

    def start(self) -> None:
        """Start what is not running, and wait until the node takes jobs."""
        munge = self.folder / "munge"
        self._run(
            *("munged", "--foreground", f"--key-file={self.folder}/munge.key", f"--socket={munge}.socket"),
            *(f"--pid-file={munge}.pid", f"--log-file={munge}.log", f"--seed-file={munge}.seed", "--force"),
        )
        _wait(lambda: Path(f"{munge}.socket").exists(), "munged")
        self._run("slurmctld", "-D")
        self._run("slurmd", "-D")
        _wait(self.takes_jobs, "slurmd")

    def takes_jobs(self) -> bool:
        """Return whether the node is up."""
        return self.command("sinfo", "--noheader", "--format=%T").strip() in ("idle", "mixed", "allocated")

    def _run(self, name: str, *words: str) -> None:
        running = self._daemons.get(name)
        if running is None or running.poll() is not None:
            program = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
            assert program is not None, f"found no {name}: apt-get install slurm-wlm munge"
            with (self.folder / f"{name}.out").open("ab") as out:
                self._daemons[name] = subprocess.Popen(
                    [program, *words], env={**os.environ, **self.env}, stdout=out, stderr=out, start_new_session=True
                )

    def stop(self, *names: str) -> None:
        """Stop daemons, in order; without names all of them, with all jobs."""
        if not names:
            with suppress(subprocess.CalledProcessError):
                self.command("scancel", "--user=root")
                _wait(lambda: not self.command("squeue", "--noheader"), "the end of all jobs")
        for name in names or ("slurmd", "slurmctld", "munged"):
            if daemon := self._daemons.pop(name, None):
                daemon.send_signal(signal.SIGTERM)
                try:
                    daemon.wait(20)
                except subprocess.TimeoutExpired:
                    daemon.kill()
                    daemon.wait()

    def command(self, *words: str) -> str:
        """Return what one of Slurm's commands prints."""
        done = subprocess.run(words, env={**os.environ, **self.env}, capture_output=True, text=True, check=True)
        return done.stdout

    def jobs(self) -> list[str]:
        """Return the numbers of the jobs that have not ended."""
        return self.command("squeue", "--noheader", "--format=%i").split()


def _host() -> str:
    return socket.gethostname().partition(".")[0]


def _wait(done: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        with suppress(subprocess.CalledProcessError):
            if done():
                return
        assert time.monotonic() < deadline, f"{what} did not come within {_PATIENCE_S} s"
        time.sleep(0.2)


@contextmanager
def slurm_cluster(folder: Path, **options: int) -> Iterator[SlurmCluster]:
    """Have a Slurm up for the block."""
    cluster = SlurmCluster(folder, **options)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


def main() -> None:
    """Have a Slurm up until Ctrl-C or SIGTERM."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with slurm_cluster(Path(sys.argv[1]).absolute()) as cluster:
        print(f"export SLURM_CONF={cluster.conf}", flush=True)
        with suppress(KeyboardInterrupt):
            signal.pause()


if __name__ == "__main__":
    main()
