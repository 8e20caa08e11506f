"""The yard's own account on MLflow: made once, for its owner alone, shown to its own server alone."""

import json
import os
import stat

import pytest

from tasks.base.errors import ConfigError, StorageError
from tasks.base.processes import identity
from tasks.base.servers.alive import pid_file
from tasks.base.servers.mlflow_account import (
    account,
    account_headers,
    account_variables,
    known_account,
    make_secrets,
    server_settings,
)
from tasks.base.servers.password import basic, password

MLFLOW = "http://127.0.0.1:5055"


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("TRAINYARD_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("TRAINYARD_AUTH_DIR", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


def test_they_are_made_for_their_owner_alone_and_never_overwritten(home):
    before = os.umask(0)
    try:
        made = make_secrets()
    finally:
        os.umask(before)
    assert {path.name: new for path, new in made.items()} == {
        "password": True,
        "mlflow-password": True,
        "mlflow-auth.ini": True,
    }
    assert {stat.S_IMODE(path.stat().st_mode) for path in made} == {0o600}
    first = account()
    with pytest.raises(ConfigError, match=f"in {home}: nothing is overwritten"):
        make_secrets()
    (home / "password").unlink()
    assert [path.name for path, new in make_secrets().items() if new] == ["password"]
    assert account() == first
    assert password() != first


def test_a_folder_may_be_named_and_is_closed(tmp_path, monkeypatch):
    monkeypatch.setenv("TRAINYARD_AUTH_DIR", str(tmp_path / "etc"))
    assert {path.parent for path in make_secrets()} == {tmp_path / "etc"}
    assert stat.S_IMODE((tmp_path / "etc").stat().st_mode) == 0o700


def test_settings_are_mlflows_own_and_a_key_of_the_server():
    make_secrets()
    settings = server_settings()
    assert settings["mlflow"]["default_permission"] == "EDIT"
    assert len(settings["server"]["secret_key"]) > 30


def test_only_the_stack_of_this_home_is_shown_the_account(home, monkeypatch):
    make_secrets()
    (home / "services.json").write_text(json.dumps({"prefect": "http://127.0.0.1:4055", "mlflow": MLFLOW}))
    assert account_headers(MLFLOW) == {}  # left over: anybody may listen there by now
    pid_file().write_text(json.dumps({"pid": os.getppid(), "created": identity(os.getppid())}))
    assert account_headers(MLFLOW) == account_headers(f"{MLFLOW}/api") == basic(account())
    for other in ("http://127.0.0.1:4055", "http://127.0.0.1:50551", "https://yard.lab"):
        assert account_headers(other) == {}
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "anna")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "secret")
    assert known_account("https://yard.lab") == "anna:secret"
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "abc")
    assert account_headers(MLFLOW) == {"Authorization": "Bearer abc"}


def test_what_mlflows_own_clients_read_counts_for_other_servers(tmp_path):
    (tmp_path / ".mlflow").mkdir()
    file = tmp_path / ".mlflow" / "credentials"
    file.write_text("[mlflow]\nmlflow_tracking_username = anna\nmlflow_tracking_password = a%b\n")
    assert known_account("https://yard.lab") == "anna:a%b"
    assert account_variables("anna:a:b") == {"MLFLOW_TRACKING_USERNAME": "anna", "MLFLOW_TRACKING_PASSWORD": "a:b"}
    file.write_text("[other]\n")
    assert known_account("https://yard.lab") is None
    assert account_variables(None) == {}


@pytest.mark.parametrize("text", ["", "[mlflow]\n", "[mlflow\n", "[mlflow]\ndefault_permission = READ\n[server]\n"])
def test_settings_that_are_damaged_are_said(home, text):
    (home / "mlflow-auth.ini").touch(0o600)
    (home / "mlflow-auth.ini").write_text(text)
    with pytest.raises(StorageError, match="need its sections mlflow and server"):
        server_settings()


def test_settings_that_others_can_read_are_refused(home):
    make_secrets()
    (home / "mlflow-auth.ini").chmod(0o644)
    with pytest.raises(StorageError, match="open to others"):
        server_settings()
