"""Slurm's own commands: sbatch, squeue and scancel."""

import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from gpu_pools.names import host_name
from gpu_pools.slurm.job_states import FORMAT, NODE_FORMAT, Job, Node, parse_jobs, parse_nodes
from gpu_pools.slurm.request import HOST
from tasks.base.errors import TrainyardError

_LIMIT_S = 60.0  # Slurm's commands try again by themselves for some 20 s
_CONFIGS = ("/etc/slurm/slurm.conf", "/etc/slurm-llnl/slurm.conf", "/run/slurm/conf/slurm.conf")
_AWAY = re.compile(
    r"unable to contact|connection refused|connect failure|timed out|zero bytes|communication connection failure"
    r"|slurm_persist_conn|controller not responding|unable to establish controller|munge|authentication"
    r"|slurm backup controller in standby|temporarily|socket|fetch_config|configuration source",
    re.IGNORECASE,
)
_LATER = re.compile(r"submit ?limit|limit on number of jobs|QOSMaxSubmit|MaxSubmitJobs|resource limit", re.IGNORECASE)


class SlurmAwayError(TrainyardError):
    """Slurm does not answer; whatever it has is as it was."""


class SlurmFullError(TrainyardError):
    """Slurm takes no more jobs of this user for now."""


class SlurmRefusedError(TrainyardError):
    """Slurm refuses a job for good."""


def config_file() -> str:
    """Return the configuration that Slurm's commands read here, empty where none is found."""
    asked = os.environ.get("SLURM_CONF", "")
    return next((path for path in ([asked] if asked else _CONFIGS) if Path(path).is_file()), "")


def is_here() -> bool:
    """Return whether this machine hands jobs to a Slurm: its commands are installed, and it has a configuration.

    A host that is called as the cluster's queues are does not: its own devices would be taken for the cluster's.
    """
    return shutil.which("sbatch") is not None and config_file() != "" and host_name() != HOST


class Slurm:
    """The Slurm that this machine hands jobs to."""

    def submit(self, options: Sequence[str], script: str, env: Mapping[str, str], lock_fd: int) -> str:
        """Hand a job over and return its number.

        Args:
            options: of sbatch.
            script: what it runs.
            env: the environment of the job.
            lock_fd: a lock that sbatch keeps: who died meanwhile is followed by one who waits until sbatch is done.

        Raises:
            SlurmAwayError: Slurm does not answer; it may have taken the job all the same.
            SlurmFullError: the user has as many jobs as it may.
            SlurmRefusedError: Slurm refuses the job, in its own words.
        """
        said = _call(["sbatch", "--parsable", *options], script, env=env, fds=(lock_fd,))
        return said.strip().splitlines()[-1].partition(";")[0]

    def jobs(self) -> list[Job]:
        """Return the jobs of this user, those that ended in the last minutes (Slurm's MinJobAge) too.

        Raises:
            SlurmAwayError: Slurm does not answer.
        """
        return parse_jobs(_call(["squeue", "--me", "--noheader", "--states=all", f"--format={FORMAT}"]).splitlines())

    def nodes(self) -> list[Node]:
        """Return the nodes.

        Raises:
            SlurmAwayError: Slurm does not answer.
            SlurmRefusedError: it answers something else.
        """
        return parse_nodes(_call(["sinfo", "--noheader", "--Node", f"--format={NODE_FORMAT}"]).splitlines())

    def cancel(self, job_id: str) -> None:
        """End a job: its processes get SIGTERM, and after Slurm's KillWait, usually 30 s, SIGKILL.

        Raises:
            SlurmAwayError: Slurm does not answer.
        """
        try:
            _call(["scancel", job_id])
        except SlurmRefusedError:
            return  # it has ended in between


def _call(
    command: Sequence[str], text: str = "", *, env: Mapping[str, str] | None = None, fds: Sequence[int] = ()
) -> str:
    try:
        done = subprocess.run(
            command,
            input=text,
            capture_output=True,
            text=True,
            env=None if env is None else dict(env),
            pass_fds=fds,
            timeout=_LIMIT_S,
            check=False,
        )
    except FileNotFoundError as exc:
        raise SlurmAwayError(f"found no {command[0]}, need Slurm's commands in PATH") from exc
    except subprocess.TimeoutExpired as exc:
        raise SlurmAwayError(f"{command[0]} gave no answer within {_LIMIT_S:.0f} s") from exc
    if done.returncode == 0:
        return done.stdout
    said = " ".join(done.stderr.split()) or f"{command[0]} ended with code {done.returncode}"
    if _LATER.search(said):
        raise SlurmFullError(said)
    if _AWAY.search(said):
        raise SlurmAwayError(said)
    raise SlurmRefusedError(said)
