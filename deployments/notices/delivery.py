"""Sends a message by e-mail, to Slack or to a webhook.

Errors name the server, never an address that is a secret.
"""

import smtplib
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import formatdate, parseaddr
from urllib.parse import urlsplit

import httpx

from deployments.notices.messages import Message, SendError, table
from gpu_pools.sharing.notice_settings import MailServer, NoticeSettings, address_of, secret_of
from gpu_pools.sharing.settings import settings_path
from tasks.base.errors import ConfigError

_TIMEOUT_S = 20.0
_MOST_SAID = 200


def send(settings: NoticeSettings, name: str, message: Message) -> str:
    """Send a message to a recipient; return what the server answered.

    Raises:
        SendError: it was not taken; names the server and says why.
        ConfigError: the settings are wrong.
    """
    recipient = settings.to.get(name)
    if recipient is None:
        raise ConfigError(f"found no recipient {name!r} in {settings_path()}")
    if recipient.mail is not None:
        assert settings.mail is not None
        return send_mail(settings.mail, recipient.mail, name, message)
    url = address_of(recipient, settings_path())
    if recipient.way == "slack":
        return post(url, {"text": slack_text(message)})
    return post(url, message.as_json())


def mail_of(server: MailServer, to: str, name: str, message: Message) -> EmailMessage:
    """Return a message as a mail of plain text; sent again it has the same Message-ID."""
    mail = EmailMessage(policy=SMTP)
    mail["From"], mail["To"], mail["Subject"] = server.sender, to, message.subject
    mail["Date"] = formatdate(localtime=True)
    mail["Message-ID"] = f"<{message.id}.{name}@{_address(server).rpartition('@')[2]}>"
    mail["Auto-Submitted"] = "auto-generated"  # nobody's out-of-office note answers it
    mail.set_content(message.plain())
    return mail


def send_mail(server: MailServer, to: str, name: str, message: Message) -> str:
    """Hand a mail over to its server; return the server's answer.

    Raises:
        SendError: the server does not take it.
        ConfigError: the password cannot be read.
    """
    password = secret_of(server.password, server.password_file, settings_path()) if server.user else ""
    where = f"the mail server {server.server}:{server.port}"
    mail = mail_of(server, to, name, message)
    try:
        with _connected(server) as smtp:
            if server.user:
                smtp.login(server.user, password)
            for code, said in (smtp.mail(_address(server)), smtp.rcpt(to)):
                if code not in {250, 251}:
                    raise SendError(f"{where} refuses the mail to {to}: {_said(code, said)}")
            code, said = smtp.data(mail.as_bytes())
            if code != 250:
                raise SendError(f"{where} refuses the mail to {to}: {_said(code, said)}")
            return _said(code, said)
    except smtplib.SMTPAuthenticationError as exc:
        raise SendError(f"{where} refuses the login of {server.user}: {_said(exc.smtp_code, exc.smtp_error)}") from exc
    except smtplib.SMTPResponseException as exc:
        raise SendError(f"{where} answers {_said(exc.smtp_code, exc.smtp_error)}") from exc
    except (smtplib.SMTPException, OSError, ssl.SSLError) as exc:
        raise SendError(f"{where} takes nothing ({exc})") from exc


@contextmanager
def _connected(server: MailServer) -> Iterator[smtplib.SMTP]:
    name = socket.gethostname()
    context = ssl.create_default_context()
    if server.security == "tls":
        with smtplib.SMTP_SSL(
            server.server, server.port, local_hostname=name, timeout=_TIMEOUT_S, context=context
        ) as smtp:
            yield smtp
        return
    with smtplib.SMTP(server.server, server.port, local_hostname=name, timeout=_TIMEOUT_S) as smtp:
        if server.security == "starttls":
            smtp.starttls(context=context)
        smtp.ehlo_or_helo_if_needed()
        yield smtp


def _address(server: MailServer) -> str:
    return parseaddr(server.sender)[1]


def _said(code: int, said: bytes | str) -> str:
    text = said.decode(errors="replace") if isinstance(said, bytes) else said
    return f"{code} {' '.join(text.split())}"[:_MOST_SAID]


def slack_text(message: Message) -> str:
    """Return a message in Slack's own marks: the figures keep their columns, the links stay links."""
    figures = f"```{_escaped(table(message.figures))}```" if message.figures else ""
    links = " | ".join(f"<{url}|{_escaped(name)}>" for name, url in message.links.items())
    return "\n".join(filter(None, [f"*{_escaped(message.subject)}*", _escaped(message.text), figures, links]))


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def post(url: str, content: dict[str, object]) -> str:
    """Send a JSON document to a webhook; return the status and the beginning of what it answered.

    Raises:
        SendError: it does not take it; with its host alone, as who knows the address may use it.
    """
    parts = urlsplit(url)
    where = f"{parts.scheme}://{parts.hostname}"
    try:
        answer = httpx.post(url, json=content, timeout=_TIMEOUT_S, headers={"User-Agent": "trainyard"})
    except (httpx.HTTPError, httpx.InvalidURL) as exc:
        raise SendError(f"the webhook at {where} does not answer ({type(exc).__name__})") from None
    said = f"{answer.status_code} {' '.join(answer.text.split())}".replace(url, "the webhook")[:_MOST_SAID].strip()
    if not answer.is_success:
        raise SendError(f"the webhook at {where} answers {said}")
    return said
