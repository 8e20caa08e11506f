"""Settings of every test: no calls home, and one thread per process, so that tests share the cores in peace."""

import atexit
import os
import shutil
import signal
import sqlite3
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

# Two torch processes with two threads each on two cores run many times slower than with one each.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
HAS_GPU = Path("/dev/nvidiactl").exists()
if not HAS_GPU:  # our kernels in Triton, interpreted: the same operations lane by lane
    os.environ.setdefault("TRITON_INTERPRET", "1")
# Whoever runs the tests in the background of a shell has Ctrl-C ignored, and every process they start inherits that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
# Slots and a home of its own: the tests must neither wait for the yard of this machine nor keep it waiting, and a test
# that names no home must not leave one in the checkout.
for _name in ("TRAINYARD_LOCK_DIR", "TRAINYARD_HOME"):
    os.environ[_name] = tempfile.mkdtemp(prefix="trainyard-test-")
    atexit.register(shutil.rmtree, os.environ[_name], ignore_errors=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a GPU where there is none: whoever runs a whole folder has not deselected it."""
    for item in items:
        if item.get_closest_marker("gpu") and not HAS_GPU:
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))


class _Failures:
    """Tells what failed at once: tests that are cut off, as by a time limit, come to no summary."""

    def __init__(self, terminal: pytest.TerminalReporter) -> None:
        self._terminal = terminal

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self._terminal.write_line(f"\n{report.nodeid}, {report.when}:\n{report.longreprtext[-2000:]}")


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    """Tell failures at once where many tests run, of which the processes of xdist only report."""
    terminal = config.pluginmanager.get_plugin("terminalreporter")
    if terminal and config.getoption("dist", "no") != "no":
        config.pluginmanager.register(_Failures(terminal))


@pytest.fixture(autouse=True)
def as_many_threads_again() -> Iterator[None]:
    """A training in several processes shares out the cores of this one; the next test must not measure by that."""
    yield
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


@pytest.fixture(scope="module", autouse=True)
def no_events_to_an_earlier_server() -> Iterator[None]:
    """Prefect keeps one connection for events per process, also when the server it leads to has gone."""
    yield
    if worker := sys.modules.get("prefect.events.worker"):
        worker.EventsWorker.drain_all(timeout=30)


@pytest.fixture(scope="session")
def with_mlflow_tables(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], None]:
    """A function that gives a state folder MLflow's database with its tables: to make those takes seconds each time."""
    from tasks.tracking.mlflow_api import client

    made = tmp_path_factory.mktemp("mlflow")
    client(f"sqlite:///{made}/made.db")
    with closing(sqlite3.connect(made / "made.db")) as database:
        database.execute("VACUUM INTO ?", (str(made / "whole.db"),))  # one file, whatever its journal is

    def give(home: Path) -> None:
        (home / "mlflow").mkdir()
        shutil.copy(made / "whole.db", home / "mlflow" / "mlflow.db")

    return give


@pytest.fixture
def as_nobody():
    """Yield a folder, and a function that calls another one without root's right to read everything."""
    folder = Path(tempfile.mkdtemp(prefix="trainyard-nobody-"))
    folder.chmod(0o777)

    def call(function, *args):
        user = os.geteuid()
        if user == 0:
            os.seteuid(65534)
        try:
            return function(*args)
        finally:
            os.seteuid(user)

    yield folder, call
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o777)
    shutil.rmtree(folder)
