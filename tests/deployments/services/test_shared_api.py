"""Runs without a stack share one Prefect server per home: the first one brings it, the last one ends it."""

import os
import signal
import stat
import subprocess
import sys

import httpx
import psutil
import pytest

from deployments.services.shared_api import api_keeper, share_api
from tasks.base.file_locks import lock
from tests.deployments.waiting import wait_for

USER = """
import os, sys, time
from deployments.stack.stack import choose_api, serving
api = choose_api()
assert api is not None
with serving(api):
    print(os.environ["PREFECT_API_URL"], flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty home on SQLite."""
    monkeypatch.setenv("TRAINYARD_HOME", str(tmp_path))
    monkeypatch.setenv("TRAINYARD_DATABASE", "sqlite")
    for name in ("PREFECT_API_URL", "PREFECT_HOME", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture
def start(home):
    """Start processes that need the API until their input ends."""
    users = []

    def user():
        users.append(subprocess.Popen([sys.executable, "-c", USER], stdin=-1, stdout=-1, text=True))
        return users[-1]

    yield user
    for process in users:
        process.kill()
        process.wait()
    assert wait_for(lambda: not api_keeper().alive(), 60)


def servers(home):
    """Return the processes of this home that listen."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("TRAINYARD_HOME") == str(home) and process.net_connections("inet"):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def healthy(api):
    try:
        return httpx.get(f"{api}/health").is_success
    except httpx.TransportError:
        return False


def test_several_at_once_on_a_fresh_home_share_one_server(home, start):
    users = [start() for _ in range(4)]
    addresses = {user.stdout.readline().strip() for user in users}
    assert len(addresses) == 1
    (api,) = addresses
    assert healthy(api)
    for foreign in ({"Host": "evil.example"}, {"Origin": "http://evil.example"}):
        assert httpx.get(f"{api}/admin/version", headers=foreign).status_code == 403
    assert len(servers(home)) == 1
    users[0].kill()  # who brought it, perhaps
    for user in users[1:3]:
        user.communicate("", timeout=30)
        assert user.returncode == 0
    assert healthy(api)
    later = start()
    assert later.stdout.readline().strip() == api
    later.communicate("", timeout=30)
    assert healthy(api)
    users[3].communicate("", timeout=60)  # the last one waits until it has ended
    assert not api_keeper().alive()
    assert not healthy(api)
    assert servers(home) == []


def test_killed_users_leave_no_server(home, start):
    user = start()
    api = user.stdout.readline().strip()
    user.kill()
    assert wait_for(lambda: not healthy(api) and not api_keeper().alive(), 60)
    assert servers(home) == []


def test_a_killed_keeper_takes_its_server_along_and_the_next_run_has_one(home, start):
    user = start()
    api = user.stdout.readline().strip()
    (server,) = servers(home)
    keeper = server.parent()
    os.kill(keeper.pid, signal.SIGKILL)
    assert wait_for(lambda: servers(home) == [], 60)
    assert start().stdout.readline().strip() == api  # so the first one finds it again, too
    assert len(servers(home)) == 1
    assert healthy(api)


def test_a_killed_server_is_started_again(home, start):
    api = start().stdout.readline().strip()
    (server,) = servers(home)
    server.kill()
    assert wait_for(lambda: servers(home) not in ([server], []) and healthy(api), 60)


def test_who_asks_while_nobody_uses_it_gets_an_address_of_its_own(home):
    keeper = api_keeper()
    first = share_api()
    second = share_api()
    assert first.service.url == second.service.url  # the first is not up yet, and its address is settled
    os.close(first.shared)
    os.close(second.shared)
    free = keeper.open_lock("users")
    assert lock(free)  # nobody is left
    os.close(free)


def test_a_home_that_a_run_makes_is_closed_to_others(tmp_path, monkeypatch, start):
    monkeypatch.setenv("TRAINYARD_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("TRAINYARD_HOME_MODE", raising=False)
    before = os.umask(0o022)
    try:
        user = start()
        assert user.stdout.readline().startswith("http://")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "home").stat().st_mode) == 0o750
    user.stdin.close()
    user.wait()
