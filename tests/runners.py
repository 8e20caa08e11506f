"""Runs programs of the tests in processes of their own, some of which are to be killed."""

import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]


def output_of(command: Sequence[object], *, timeout: float | None = None, **environment: object) -> tuple[str, str]:
    """Return what a command that must succeed says on standard output and standard error."""
    done = subprocess.run(
        [str(word) for word in command],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", **{name: str(value) for name, value in environment.items()}},
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout, done.stderr


def attempts(attempt: Callable[[str, int, int], None], runs: Sequence[str]) -> None:
    """Make one attempt after the other in forks of this process; print the signal or minus the code of each end.

    Args:
        attempt: takes the name of its run, when it is to kill itself, 0 for never, and its number.
        runs: each as NAME=KILL,KILL...: its name, and when each of its attempts is to kill itself.
    """
    for run in runs:
        name, _, kills = run.partition("=")
        for number, kill_at in enumerate(map(int, kills.split(","))):
            child = os.fork()
            if child == 0:
                attempt(name, kill_at, number)
                os._exit(0)
            _, status = os.waitpid(child, 0)
            print(os.WTERMSIG(status) if os.WIFSIGNALED(status) else -os.WEXITSTATUS(status), flush=True)


def ends_of(
    runner: str, *words: object, runs: Mapping[str, Sequence[int]], timeout: float, **environment: object
) -> list[int]:
    """Return how the attempts of a runner at each of `runs` ended: the signal, or minus the exit code."""
    named = [f"{name}={','.join(map(str, kills))}" for name, kills in runs.items()]
    said, _ = output_of([sys.executable, "-m", runner, *words, *named], timeout=timeout, **environment)
    return [int(line) for line in said.split()]
