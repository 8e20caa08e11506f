"""Images by URL from real servers of this machine: which hosts, which addresses, how much and for how long."""

import io
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address

import httpx
import pytest
from PIL import Image

from tasks.base.errors import ConfigError
from tasks.vision_language.gate.fetch import Hosts, fetch
from tasks.vision_language.gate.refusal import Refusal
from tests.tasks.vision_language.servers import fake_engine, gate_before


def png() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (30, 20), "red").save(file, "PNG")
    return file.getvalue()


class Handler(BaseHTTPRequestHandler):
    """Serves an image, and what else a server may do."""

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        status = {"/moved": 302, "/none": 404}.get(self.path, 200)
        self.send_response(status)
        if status == 302:
            self.send_header("Location", f"http://127.0.0.1:{self.server.server_port}/secret")
        self.end_headers()
        try:
            self.answer()
        except OSError:
            pass  # who asked has enough

    def answer(self) -> None:
        if self.path == "/endless":
            while True:
                self.wfile.write(bytes(65536))
        if self.path == "/slow":
            while True:
                self.wfile.write(b"x")
                time.sleep(0.05)
        self.wfile.write(png())

    def log_message(self, *words: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def server() -> Iterator[ThreadingHTTPServer]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.asked = []
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def got(url: str, *hosts: str, max_bytes: int = 2**20, limit_s: float = 5) -> bytes:
    return fetch(url, "image", Hosts.of(hosts), max_bytes, time.monotonic() + limit_s)


def refused(url: str, *hosts: str, **limits: float) -> Refusal:
    with pytest.raises(Refusal) as refusal:
        got(url, *hosts, **limits)
    return refusal.value


def test_an_image_of_a_listed_address_is_fetched(server):
    port = server.server_port
    assert got(f"http://127.0.0.1:{port}/a.png?size=1&name=%C3%A9", f"127.0.0.1:{port}") == png()
    assert server.asked[-1] == "/a.png?size=1&name=%C3%A9"
    got(f"http://127.0.0.1:{port}/dé r/a.png", f"127.0.0.1:{port}")
    assert server.asked[-1] == "/d%C3%A9%20r/a.png"


def test_a_listed_name_that_leads_inside_is_refused_unless_that_address_is_listed(server):
    port, n_asked = server.server_port, len(server.asked)
    url = f"http://localhost:{port}/a.png"
    assert "is an address inside" in refused(url, f"localhost:{port}").message
    assert len(server.asked) == n_asked
    assert got(url, f"localhost:{port}", "127.0.0.1", "[::1]") == png()


def test_other_hosts_ports_and_names_in_front_are_refused_without_a_connection(server):
    port, n_asked = server.server_port, len(server.asked)
    for url, host in (
        (f"http://127.0.0.1:{port}/a.png", "127.0.0.1"),  # that is port 80
        (f"http://127.0.0.1:{port}/a.png", f"localhost:{port}"),
        (f"http://images.lab@127.0.0.1:{port}/a.png", "images.lab"),
        (f"http://images.lab:x@127.0.0.1:{port}/a.png", f"127.0.0.1:{port}"),
        (f"http://127.0.0.1:{port}\\@images.lab/a.png", "images.lab"),
        (f"http://[::ffff:127.0.0.1]:{port}/a.png", f"127.0.0.1:{port}"),
        ("http:///a.png", "images.lab"),
        ("http://images.lab:99999/", "images.lab"),
        ("http://[::1/", "images.lab"),
    ):
        assert refused(url, host).status == 400
    assert len(server.asked) == n_asked


def test_redirects_are_not_followed(server):
    port, n_asked = server.server_port, len(server.asked)
    assert "found a redirect" in refused(f"http://127.0.0.1:{port}/moved", f"127.0.0.1:{port}").message
    assert server.asked[n_asked:] == ["/moved"]


@pytest.mark.parametrize(
    ("path", "status", "says"),
    [("none", 400, "answers 404"), ("endless", 413, "more than 1048576 bytes"), ("slow", 400, "cannot be fetched")],
)
def test_what_has_no_end_or_is_not_there_is_one_sentence(server, path, status, says):
    port = server.server_port
    begun = time.monotonic()
    refusal = refused(f"http://127.0.0.1:{port}/{path}", f"127.0.0.1:{port}", limit_s=0.5)
    assert (refusal.status, says in refusal.message) == (status, True), refusal.message
    assert time.monotonic() - begun < 4


def test_nobody_there_is_one_sentence():
    assert "cannot be fetched" in refused("http://127.0.0.1:9/a.png", "127.0.0.1:9").message
    assert "cannot be fetched" in refused("http://nowhere.invalid/a.png", "nowhere.invalid").message
    assert "cannot be fetched" in refused("https://127.0.0.1:9/a.png", "127.0.0.1:9").message


def test_addresses_that_lead_inside_by_whatever_form_are_inside():
    hosts = Hosts.of(["10.0.0.7", "images.lab"])
    inside = ("127.0.0.1", "10.0.0.8", "169.254.169.254", "192.168.1.1", "100.64.0.1", "0.0.0.0", "224.0.0.1", "::1",
              "fe80::1", "fd00::7", "::ffff:10.0.0.8", "64:ff9b::a00:8", "2002:a00:8::1", "ff02::1")  # fmt: skip
    assert not [address for address in inside if hosts.have_address(ip_address(address))]
    assert all(hosts.have_address(ip_address(address)) for address in ("10.0.0.7", "8.8.8.8", "2606:4700::1"))


def test_a_host_that_is_none_is_refused():
    with pytest.raises(ConfigError, match="need names or addresses"):
        Hosts.of(["images.lab:99999"])


def test_the_gate_shows_the_engine_what_it_fetched(server):
    port = server.server_port
    part = {"type": "image_url", "image_url": {"url": f"http://127.0.0.1:{port}/a.png"}}
    body = {"messages": [{"role": "user", "content": [part, {"type": "text", "text": "words 1"}]}]}
    with fake_engine() as engine:
        with gate_before(engine.url) as (_, url):
            answer = httpx.post(f"{url}/v1/chat/completions", json=body)
            assert (answer.status_code, "found 'http:'" in answer.text) == (400, True)
        with gate_before(engine.url, image_hosts=[f"127.0.0.1:{port}"]) as (_, url):
            assert httpx.post(f"{url}/v1/chat/completions", json=body).status_code == 200
        shown = engine.asked[0]["messages"][0]["content"][0]["image_url"]["url"]
    assert shown.startswith("data:image/png;base64,")
