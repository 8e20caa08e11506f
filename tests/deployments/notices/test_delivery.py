"""Messages reach a mail server, Slack and a webhook of this machine; what goes wrong is said without a secret."""

import socket
from dataclasses import replace

import pytest

from deployments.notices.delivery import send
from deployments.notices.messages import SendError
from deployments.notices.trying import chosen, try_message
from deployments.services.service import free_port
from gpu_pools.sharing.notice_settings import NoticeSettings
from gpu_pools.sharing.settings import YardSettings
from tasks.base.errors import ConfigError
from tests.deployments.notices.receivers import PASSWORD, USER, mail_server, slack, webhook


@pytest.fixture(autouse=True)
def _home(tmp_path, monkeypatch):
    monkeypatch.setenv("TRAINYARD_HOME", str(tmp_path))


def to_mail(port, **server):
    known = {"server": "127.0.0.1", "port": port, "security": "none", "sender": "yard@lab.example", **server}
    return NoticeSettings.model_validate({"mail": known, "to": {"anna": {"mail": "anna@lab.example"}}})


def to_hook(tmp_path, url):
    (tmp_path / "hook").write_text(url)
    (tmp_path / "hook").chmod(0o600)
    return NoticeSettings.model_validate({"to": {"team": {"webhook_file": "hook"}}})


def secret(tmp_path, text):
    (tmp_path / "smtp").write_text(text)
    (tmp_path / "smtp").chmod(0o600)


def test_a_mail_is_handed_over(tmp_path):
    with mail_server(tmp_path) as mails:
        assert send(to_mail(mails.port), "anna", try_message("anna")) == "250 2.0.0 taken"
        assert mails.got[0]["To"] == "anna@lab.example"
        assert mails.got[0].get_content().splitlines()[0].endswith("It works.")


def test_a_login_goes_over_starttls(tmp_path, monkeypatch):
    secret(tmp_path, PASSWORD)
    with mail_server(tmp_path, login=True) as mails:
        settings = to_mail(mails.port, security="starttls", user=USER, password_file="smtp")
        with pytest.raises(SendError, match="takes nothing .*certificate verify failed"):
            send(settings, "anna", try_message("anna"))
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "certificate.pem"))
        assert send(settings, "anna", try_message("anna")) == "250 2.0.0 taken"


def test_a_wrong_password_is_said_and_not_shown(tmp_path, monkeypatch):
    secret(tmp_path, "another-s3cret")
    with mail_server(tmp_path, login=True) as mails:
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "certificate.pem"))
        settings = to_mail(mails.port, security="starttls", user=USER, password_file="smtp")
        with pytest.raises(SendError, match="refuses the login of yard: 535") as refused:
            send(settings, "anna", try_message("anna"))
        assert "s3cret" not in str(refused.value)


def test_what_the_mail_server_refuses_is_said_in_its_words(tmp_path):
    with mail_server(tmp_path) as mails:
        mails.refuse = "552 5.2.2 mailbox full"
        with pytest.raises(SendError, match="refuses the mail to anna@lab.example: 552 5.2.2 mailbox full"):
            send(to_mail(mails.port), "anna", try_message("anna"))


def test_a_mail_server_that_is_away_is_named():
    port = free_port()
    with pytest.raises(SendError, match=rf"the mail server 127.0.0.1:{port} takes nothing .*refused"):
        send(to_mail(port), "anna", try_message("anna"))


def test_a_webhook_gets_the_document(tmp_path):
    with webhook() as hook:
        assert send(to_hook(tmp_path, hook.url), "team", try_message("team")) == "200 ok"
        assert (hook.got[0]["kind"], hook.got[0]["links"]) == ("test", {})


def test_what_a_webhook_refuses_is_said_without_its_address(tmp_path):
    with webhook() as hook:
        hook.status = 404
        with pytest.raises(SendError, match=r"the webhook at http://127.0.0.1 answers 404 no_service") as refused:
            send(to_hook(tmp_path, hook.url), "team", try_message("team"))
        assert "s3cret" not in str(refused.value)


def test_a_webhook_that_is_away_is_said_without_its_address(tmp_path):
    with pytest.raises(SendError, match="at http://127.0.0.1 does not answer .ConnectError") as away:
        send(to_hook(tmp_path, f"http://127.0.0.1:{free_port()}/s3cret"), "team", try_message("team"))
    assert "s3cret" not in str(away.value)


@pytest.fixture
def to_slack(tmp_path, monkeypatch):
    """Slack's webhook on this machine, whose certificate this process trusts, and settings with its address."""
    with slack(tmp_path) as hook:
        (tmp_path / "slack-hook").write_text(hook.url)
        (tmp_path / "slack-hook").chmod(0o600)
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "certificate.pem"))
        yield hook, NoticeSettings.model_validate({"to": {"team": {"slack_file": "slack-hook"}}})


def test_slack_gets_a_text_with_figures_and_links(to_slack):
    hook, settings = to_slack
    message = replace(try_message("team"), links={"Prefect": "https://yard.lab.example/runs/1"})
    assert send(settings, "team", message) == "200 ok"
    (content,) = hook.got
    assert list(content) == ["text"]
    first, *lines = content["text"].splitlines()
    assert first.startswith("*a test of the yard on ")
    assert lines[0].endswith("It works.")
    assert lines[-1] == "<https://yard.lab.example/runs/1|Prefect>"


@pytest.mark.parametrize(
    ("status", "said"),
    [(403, "invalid_token"), (404, "no_service"), (410, "channel_is_archived"), (429, "rate_limited")],
)
def test_what_slack_refuses_is_said_in_its_words_without_its_address(to_slack, status, said):
    hook, settings = to_slack
    hook.status = status
    with pytest.raises(SendError, match=rf"the webhook at https://127.0.0.1 answers {status} {said}") as refused:
        send(settings, "team", try_message("team"))
    assert "s3cret" not in str(refused.value)


def test_a_slack_whose_certificate_nobody_vouches_for_gets_nothing(to_slack, monkeypatch):
    hook, settings = to_slack
    monkeypatch.delenv("SSL_CERT_FILE")
    with pytest.raises(SendError, match="at https://127.0.0.1 does not answer .ConnectError") as away:
        send(settings, "team", try_message("team"))
    assert "s3cret" not in str(away.value)
    assert hook.got == []


def test_slack_is_told_over_https_only(tmp_path):
    (tmp_path / "hook").write_text("http://hooks.slack.example/s3cret")
    (tmp_path / "hook").chmod(0o600)
    settings = NoticeSettings.model_validate({"to": {"team": {"slack_file": "hook"}}})
    with pytest.raises(ConfigError, match="hook: found no address of https") as refused:
        send(settings, "team", try_message("team"))
    assert "s3cret" not in str(refused.value)


def test_who_is_tried():
    settings = YardSettings.model_validate(
        {
            "groups": {"vision": ["ben"]},
            "notices": {"to": {"a": {"owners": ["vision"], "webhook_file": "h"}, "b": {"webhook_file": "h"}}},
        }
    )
    assert chosen(settings, None) == ["a", "b"]
    assert chosen(settings, "b") == ["b"]
    assert chosen(settings, "ben@boxa") == ["a", "b"]
    with pytest.raises(ConfigError, match="found nobody to tell in .*notices.to is empty"):
        chosen(YardSettings(), None)


def test_a_mail_server_that_says_nothing_is_not_waited_for_long(monkeypatch):
    monkeypatch.setattr("deployments.notices.delivery._TIMEOUT_S", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(SendError, match="takes nothing .*timed out"):
        send(to_mail(silent.getsockname()[1]), "anna", try_message("anna"))
