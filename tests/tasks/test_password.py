"""The password of a home: made once, for its owner alone."""

import base64
import os
import stat

import pytest

from tasks.errors import StorageError
from tasks.password import headers, known_password, make_password, password


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
    assert password() == known_password() == made


def test_without_one_nothing_is_shown():
    assert password() is None
    assert headers() == {}


def test_a_request_shows_it_and_what_the_environment_says_goes_first(monkeypatch):
    make_password()
    assert headers() == {"Authorization": f"Basic {base64.b64encode(password().encode()).decode()}"}
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", "anna:pw")
    assert known_password() == "anna:pw"


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
