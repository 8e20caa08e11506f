"""Settings of notices: what is refused, and that secrets are closed to others."""

from pathlib import Path

import pytest
from pydantic import SecretStr

from gpu_pools.sharing.notice_settings import secret_of
from gpu_pools.sharing.settings import read_settings, settings_path
from tasks.base.errors import ConfigError


@pytest.fixture(autouse=True)
def _home(tmp_path, monkeypatch):
    monkeypatch.setenv("TRAINYARD_HOME", str(tmp_path))


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ("to: {anna: {mail: a@lab.example, webhook_file: h}}", "found mail, webhook_file, need one of"),
        ("to: {anna: {mail: a@lab.example}}", "need mail: with a server and a sender"),
        ("to: {Anna: {webhook_file: h}}", "notices.to.Anna"),
        ("to: {anna: {mail: 'a@lab.example\\nBcc: x@y'}}", "notices.to.anna.mail: String should match"),
        ("to: {anna: {slack: 'http://hooks.example/s3cret'}}", "found no address of https, need one"),
        ("to: {anna: {webhook: 'file:///etc/s3cret'}}", "found no address of http or https, need one"),
        ("to: {anna: {webhook_file: h, kinds: [crashed]}}", "notices.to.anna.kinds.0"),
        ("waited: soon", "notices.waited: Value error, found"),
        ("mail: {server: s, sender: y@l, user: u}", "found user 'u' without a password"),
        (
            "mail: {server: s, sender: y@l, user: u, password: s3cret, security: none}",
            "found a login with security none",
        ),
        ("mail: {server: s, sender: 'no address'}", "notices.mail.sender"),
    ],
)
def test_what_is_wrong_is_said_without_its_secrets(section, said):
    settings_path().write_text(f"notices: {{{section}}}")
    with pytest.raises(ConfigError, match=f"(?s){said}") as refused:
        read_settings()
    assert "s3cret" not in str(refused.value)


def test_a_secret_in_settings_that_others_read_is_refused():
    settings_path().write_text("")
    settings_path().chmod(0o644)
    with pytest.raises(ConfigError, match=r"found .*yard.yaml open to others: .*`chmod 600` it, or name a file"):
        secret_of(SecretStr("s3cret"), None, settings_path())
    settings_path().chmod(0o600)
    assert secret_of(SecretStr("s3cret"), None, settings_path()) == "s3cret"


def test_a_secret_has_a_file_of_its_own(tmp_path):
    file = tmp_path / "smtp"
    with pytest.raises(ConfigError, match="cannot be read"):
        secret_of(None, Path("smtp"), settings_path())
    file.write_text("s3cret\n")
    file.chmod(0o640)
    with pytest.raises(ConfigError, match="open to others"):
        secret_of(None, Path("smtp"), settings_path())
    file.chmod(0o600)
    assert secret_of(None, Path("smtp"), settings_path()) == "s3cret"
