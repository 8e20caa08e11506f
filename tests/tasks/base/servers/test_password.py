"""The password of a home: made once, for its owner alone."""

import base64
import json
import os
import stat

import pytest

from tasks.base.errors import StorageError
from tasks.base.processes import identity
from tasks.base.servers.alive import pid_file
from tasks.base.servers.password import headers, known_password, make_password, password

API = "http://127.0.0.1:4242/api"


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("TRAINYARD_HOME", str(tmp_path))
    monkeypatch.delenv("PREFECT_API_AUTH_STRING", raising=False)
    return tmp_path


def test_it_is_made_once_and_for_its_owner_alone(home):
    before = os.umask(0)
    try:
        make_password()
    finally:
        os.umask(before)
    made = password()
    assert stat.S_IMODE((home / "password").stat().st_mode) == 0o600
    assert made.startswith("yard:")
    assert len(made) > 30
    make_password()
    assert password() == made


def test_without_one_nothing_is_shown():
    assert password() is None
    assert headers(API) == {}


def test_only_the_stack_of_this_home_is_shown_it_while_it_is_kept_up(home, monkeypatch):
    make_password()
    (home / "services.json").write_text(json.dumps({"prefect": "http://127.0.0.1:4242"}))
    assert headers(API) == {}  # left over: anybody may listen there by now
    pid_file().write_text(json.dumps({"pid": os.getppid(), "created": identity(os.getppid())}))
    shown = {"Authorization": f"Basic {base64.b64encode(password().encode()).decode()}"}
    assert headers(API) == headers(f"{API}/flows/") == headers("http://localhost:4242/api") == shown
    for other in ("https://yard.lab/api", "http://127.0.0.1:4243/api", "http://127.0.0.1:42421/api", ""):
        assert headers(other) == {}
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", "anna:pw")
    assert known_password("https://yard.lab/api") == "anna:pw"


def test_one_that_others_can_read_is_refused(home):
    make_password()
    (home / "password").chmod(0o640)
    with pytest.raises(StorageError, match=r"open to others: `chmod 600 .*/password`"):
        password()
    with pytest.raises(StorageError, match="open to others"):
        make_password()


def test_a_link_and_an_empty_file_are_refused(home):
    (home / "password").write_text("")
    (home / "password").chmod(0o600)
    with pytest.raises(StorageError, match="found no NAME:SECRET"):
        password()
    (home / "password").rename(home / "other")
    (home / "password").symlink_to(home / "other")
    with pytest.raises(StorageError, match="open to others"):
        password()
