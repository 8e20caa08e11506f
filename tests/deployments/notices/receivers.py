"""A mail server with STARTTLS and a login, and a webhook, both of this machine, which keep what they get."""

import datetime
import email
import email.policy
import ipaddress
import json
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, cast

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

USER, PASSWORD = "yard", "pa55word-of-the-yard"


@dataclass
class Mails:
    """What a mail server took.

    Attributes:
        refuse: what it answers instead of taking a mail.
        got: the mails, in the order in which they came.
    """

    port: int = 0
    refuse: str = ""
    got: list[EmailMessage] = field(default_factory=list)

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        """Keep a mail; aiosmtpd calls it."""
        if self.refuse:
            return self.refuse
        content = cast(bytes, envelope.content)
        self.got.append(cast(EmailMessage, email.message_from_bytes(content, policy=email.policy.default)))
        return "250 2.0.0 taken"

    def subjects(self, to: str | None = None) -> list[str]:
        """Return the subjects of what came, to one address or to all."""
        return [str(mail["Subject"]) for mail in self.got if to is None or mail["To"] == to]


@contextmanager
def mail_server(folder: Path, *, login: bool = False) -> Iterator[Mails]:
    """Serve mail for the block; with a login only over STARTTLS, its certificate is `certificate.pem`."""
    mails, options = Mails(), {}
    if login:

        def check(server: SMTP, session: Session, envelope: Envelope, mechanism: str, given: Any) -> AuthResult:
            right = isinstance(given, LoginPassword) and given == LoginPassword(USER.encode(), PASSWORD.encode())
            return AuthResult(success=right, handled=False)

        options = {
            "tls_context": _context(folder),
            "require_starttls": True,
            "authenticator": check,
            "auth_required": True,
        }
    controller = Controller(mails, hostname="127.0.0.1", port=_free_port(), **options)
    controller.start()
    mails.port = controller.port
    try:
        yield mails
    finally:
        controller.stop()


def _free_port() -> int:
    from deployments.services.service import free_port

    return free_port()


def _context(folder: Path) -> ssl.SSLContext:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    (folder / "certificate.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    plain = serialization.NoEncryption()
    kind = serialization.PrivateFormat.TraditionalOpenSSL
    (folder / "key.pem").write_bytes(key.private_bytes(serialization.Encoding.PEM, kind, plain))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(folder / "certificate.pem", folder / "key.pem")
    return context


@dataclass
class Hook:
    """What a webhook took.

    Attributes:
        url: its address, which is a secret.
        status: what it answers.
        got: the documents, in the order in which they came.
    """

    url: str = ""
    status: int = 200
    got: list[dict[str, Any]] = field(default_factory=list)


@contextmanager
def webhook() -> Iterator[Hook]:
    """Serve a webhook for the block."""
    hook = Hook()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            """Say nothing."""

        def do_POST(self) -> None:
            content = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if hook.status == 200:
                hook.got.append(content)
            said = b"ok" if hook.status == 200 else b"no_service"
            self.send_response(hook.status)
            self.send_header("Content-Length", str(len(said)))
            self.end_headers()
            self.wfile.write(said)

    with _served(Handler) as port:
        hook.url = f"http://127.0.0.1:{port}/services/T0/s3cret"
        yield hook


_SLACK_CHARACTERS = 40_000  # of a text, as Slack's documentation of incoming webhooks has it


@contextmanager
def slack(folder: Path) -> Iterator[Hook]:
    """Serve an incoming webhook as Slack's for the block: over HTTPS, with its words for what it does not take.

    Args:
        folder: gets the certificate, `certificate.pem`.
    """
    hook = Hook()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            """Say nothing."""

        def do_POST(self) -> None:
            status, said = self._judge(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(status)
            if status == 429:
                self.send_header("Retry-After", "30")
            self.send_header("Content-Length", str(len(said)))
            self.end_headers()
            self.wfile.write(said.encode())

        def _judge(self, body: bytes) -> tuple[int, str]:
            refused = {403: "invalid_token", 404: "no_service", 410: "channel_is_archived", 429: "rate_limited"}
            if hook.status != 200:
                return hook.status, refused[hook.status]
            if f"https://127.0.0.1:{port}{self.path}" != hook.url:
                return 404, "no_service"
            if self.headers["Content-Type"] != "application/json":
                return 400, "invalid_payload"
            content = json.loads(body)
            if not content.get("text"):
                return 400, "no_text"
            if len(content["text"]) > _SLACK_CHARACTERS:
                return 400, "msg_too_long"
            hook.got.append(content)
            return 200, "ok"

    with _served(Handler, _context(folder)) as port:
        hook.url = f"https://127.0.0.1:{port}/services/T0/B0/s3cret"
        yield hook


@contextmanager
def _served(handler: type[BaseHTTPRequestHandler], tls: ssl.SSLContext | None = None) -> Iterator[int]:
    """Serve for the block, and yield the port."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
