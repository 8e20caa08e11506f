"""Who is let in by the guard before the servers, asked as browsers ask."""

import asyncio

import pytest

from deployments.services.mlflow_server import is_below
from tasks.base.servers.guard import Guard

HERE = {"host": "127.0.0.1:4200"}


def guard(**options) -> Guard:
    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"done"})

    return Guard(app, **options)


def refused(headers: dict[str, str], method: str = "POST", **options) -> bool:
    return guard(**options).fault(method, {**HERE, **headers}) != ""


@pytest.mark.parametrize("host", ["127.0.0.1:4200", "localhost:4200", "LOCALHOST", "[::1]:4200", "127.0.0.1"])
def test_every_name_of_this_machine_is_good(host):
    assert not refused({"host": host})


@pytest.mark.parametrize(
    "host",
    [
        "",
        "evil.example",
        "evil.example:4200",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "127.0.0.1@evil.example",
    ]
    + ["evil.example@127.0.0.1", "127.0.0.1, evil.example", "127.0.0.1/evil", "192.168.0.7:4200", "[::1", "[evil]:1"],
)
def test_a_name_that_another_site_made_lead_here_is_refused(host):
    assert refused({"host": host})
    assert refused({"host": host}, "GET")


@pytest.mark.parametrize("origin", ["http://127.0.0.1:4200", "http://localhost:4200", "http://[::1]:4200"])
def test_the_own_pages_are_let_in_by_every_name(origin):
    assert not refused({"origin": origin})


@pytest.mark.parametrize(
    "origin",
    [
        "http://evil.example",
        "http://evil.example:4200",
        "null",
        "",
        "http://127.0.0.1:8888",
        "http://localhost",
        "file://",
    ]
    + ["https://127.0.0.1", "http://127.0.0.1:4200.evil.example", "http://127.0.0.1:4200, http://evil.example"],
)
def test_pages_of_others_are_refused_whatever_they_ask(origin):
    for method in ("GET", "POST", "DELETE", "OPTIONS", ""):
        assert refused({"origin": origin}, method)


def test_settings_let_in_other_names_and_pages():
    proxy = {"host": "yard.lab", "origin": "https://yard.lab"}
    assert refused(proxy)
    assert not refused(proxy, hosts=["yard.lab"])
    assert not refused({"origin": "http://box.lab:3000"}, origins=["http://box.lab:3000/"])
    assert refused({"origin": "http://box.lab:3001"}, origins=["http://box.lab:3000"])


def test_a_link_from_elsewhere_opens_a_page_and_nothing_else_does():
    elsewhere = {"sec-fetch-site": "cross-site"}
    assert not refused({**elsewhere, "sec-fetch-mode": "navigate"}, "GET")
    assert refused({**elsewhere, "sec-fetch-mode": "navigate"}, "POST")
    assert refused({**elsewhere, "sec-fetch-mode": "no-cors"}, "GET")
    assert not refused({"sec-fetch-site": "same-origin", "sec-fetch-mode": "cors"}, "GET")


def test_programs_which_send_none_of_it_are_let_in():
    assert not refused({})


def asked(kind: str, **headers: str) -> list[dict]:
    sent: list[dict] = []

    async def send(message):
        sent.append(message)

    pairs = [(name.encode(), value.encode()) for name, value in {**HERE, **headers}.items()]
    scope = {"type": kind, "method": "POST", "headers": pairs}
    asyncio.run(guard()(scope, None, send))
    return sent


def test_a_refusal_says_why_and_a_websocket_is_closed_before_it_opens():
    start, body = asked("http", origin="http://evil.example")
    assert start["status"] == 403
    assert b"http://evil.example" in body["body"]
    assert b"TRAINYARD_ALLOWED_ORIGINS" in body["body"]
    assert asked("websocket", origin="http://evil.example")[0]["type"] == "websocket.close"


def test_pages_cannot_be_shown_in_the_frame_of_another_site():
    start, _ = asked("http")
    assert (b"x-frame-options", b"SAMEORIGIN") in start["headers"]


@pytest.mark.parametrize(
    ("location", "below"),
    [
        *(("/yard/artifacts", True), ("/yard/artifacts/a", True), ("file:///yard/artifacts/a%20b", True)),
        *(("file:///etc", False), ("/etc", False), ("etc", False), ("/yard/artifacts-of-ben", False)),
        *(("/yard/artifacts/../../etc", False), ("file:///yard/artifacts/%2e%2e/x", False), ("s3://b/x", False)),
        *(("file:///yard/artifacts/%252e%252e/x", False), ("/yard/artifacts/x?/../../../../etc", False)),
        *(("file://host/yard/artifacts", False), ("mlflow-artifacts:/x", False), ("/yard/artifacts/a%2fb/../c", False)),
    ],
)
def test_files_of_an_experiment_lie_below_the_own_store(location, below):
    assert is_below(location, "/yard/artifacts") is below


def test_a_bucket_has_places_below_it_too():
    assert is_below("s3://bucket/yard/x", "s3://bucket/yard")
    assert not is_below("s3://other/yard/x", "s3://bucket/yard")
