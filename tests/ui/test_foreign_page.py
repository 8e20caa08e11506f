"""A page of another site, open in the browser of a person who uses the yard, sees nothing of it and changes nothing."""

import json
import os
import re
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, Page

from deployments.runs.prefect_http import asking
from deployments.services.service import Service
from deployments.stack.background import unguarded
from deployments.stack.stack import free_port, mlflow_service, prefect_service, running
from tasks.base.servers.password import make_password, password

pytestmark = [pytest.mark.yard, pytest.mark.timeout(600)]

FLAGS = (
    "--disable-gpu",
    "--host-resolver-rules=MAP evil.example 127.0.0.1",  # as a site does that lets its name lead to this machine
)
SEND = """async ([url, type]) => {
    const body = new Blob([JSON.stringify({name: "made-by-" + type.length})], {type});
    try { return (await fetch(url, {method: "POST", mode: "no-cors", body})).type } catch (error) { return "refused" }
}"""
READ = """async ([url, body]) => {
    const asking = {method: body ? "POST" : "GET", body, headers: body ? {"content-type": "application/json"} : {}};
    try { return (await fetch(url, asking)).status } catch (error) { return "refused" }
}"""
LISTEN = """url => new Promise(done => {
    const socket = new WebSocket(url, ["prefect"]);
    socket.onopen = () => done("open");
    socket.onerror = () => done("refused");
})"""


class Evil(BaseHTTPRequestHandler):
    """Another site."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<title>evil</title><body></body>")

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module", params=["the yard's", "Prefect's own"])
def prefect(request) -> Iterator[str]:
    """The address of Prefect's server, started by the yard, or by Prefect's command with the yard's settings."""
    with tempfile.TemporaryDirectory(prefix="trainyard-foreign-", ignore_cleanup_errors=True) as folder, _home(folder):
        service = prefect_service(free_port(), ui=True)
        if request.param == "Prefect's own":
            command = (str(Path(sys.executable).parent / "prefect"), *service.argv[service.argv.index("server") :])
            service = replace(service, argv=command)
        with running(service):
            yield service.url


@pytest.fixture(scope="module")
def mlflow() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="trainyard-foreign-", ignore_cleanup_errors=True) as folder, _home(folder):
        with running(mlflow_service(free_port())) as service:
            yield service.url


def _home(folder: str) -> ExitStack:
    stack = ExitStack()
    patch = stack.enter_context(pytest.MonkeyPatch.context())
    for name in [name for name in os.environ if name.startswith(("PREFECT_", "MLFLOW_"))]:
        patch.delenv(name)
    patch.setenv("TRAINYARD_HOME", folder)
    patch.setenv("PREFECT_HOME", f"{folder}/prefect")
    (Path(folder) / "prefect").mkdir()
    return stack


@pytest.fixture
def evil(browser: Browser) -> Iterator[Page]:
    """A page of evil.example."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Evil) as site:
        threading.Thread(target=site.serve_forever, daemon=True).start()
        page = browser.new_page()
        page.goto(f"http://evil.example:{site.server_port}/")
        yield page
        page.close()
        site.shutdown()


def ask(url: str, body: object) -> httpx.Response:
    return httpx.post(url, json=body, timeout=60)


def n_flows(prefect: str) -> int:
    return int(ask(f"{prefect}/api/flows/count", {}).json())


def test_another_page_cannot_read_what_prefect_has(prefect, evil):
    assert evil.evaluate(READ, [f"{prefect}/api/flow_runs/filter", "{}"]) == "refused"
    assert evil.evaluate(READ, [f"{prefect}/api/admin/version", ""]) == "refused"


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", ""])
def test_another_page_cannot_send_prefect_what_needs_no_leave(prefect, evil, kind):
    before = n_flows(prefect)
    evil.evaluate(SEND, [f"{prefect}/api/flows/", kind])
    assert n_flows(prefect) == before


def test_another_page_cannot_post_a_form_to_prefect(prefect, evil):
    field = """<input name='{"name":"x","a":"' value='"}'>"""  # with the "=" between them a body of JSON
    evil.set_content(f'<form method=post enctype=text/plain action="{prefect}/api/flows/">{field}</form>')
    before = n_flows(prefect)
    with evil.expect_navigation() as going:
        evil.evaluate("document.forms[0].submit()")
    assert going.value.status == 403
    assert n_flows(prefect) == before


@pytest.mark.parametrize("path", ["events/in", "events/out", "logs/out"])
def test_another_page_cannot_listen_to_prefect(prefect, evil, path):
    assert evil.evaluate(LISTEN, f"{prefect.replace('http', 'ws')}/api/{path}") == "refused"


def test_a_name_of_another_site_that_leads_here_shows_nothing(prefect, mlflow, browser):
    page = browser.new_page()
    for url in (prefect, f"{prefect}/api/admin/version", mlflow):
        assert page.goto(url.replace("127.0.0.1", "evil.example")).status == 403
    page.close()


def test_another_page_cannot_show_the_pages_in_a_frame(prefect, evil):
    evil.set_content(f'<iframe src="{prefect}/runs"></iframe>')
    evil.wait_for_timeout(3000)
    assert [frame.url for frame in evil.frames if frame.url.startswith(prefect)] == []


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost"])
@pytest.mark.parametrize("path", ["/runs", "/v2/runs"])
def test_the_own_pages_work_by_every_name(prefect, browser, name, path):
    page = browser.new_page()
    answers: list[int] = []
    page.on("response", lambda answer: "/api/" in answer.url and answers.append(answer.status))
    page.goto(prefect.replace("127.0.0.1", name) + path)
    page.get_by_text("Deployments").first.wait_for()
    page.wait_for_timeout(3000)
    page.close()
    assert len(answers) > 2
    assert set(answers) <= {200, 201, 204}


def test_a_link_on_another_page_opens_prefect(prefect, evil):
    evil.set_content(f'<a href="{prefect}/runs">runs</a>')
    evil.get_by_text("runs").click()
    evil.get_by_text("Deployments").first.wait_for()


def test_another_page_gets_nothing_from_mlflow(mlflow, evil):
    named = {"name": "made-by-0"}
    for url in (f"{mlflow}/api/2.0/mlflow/experiments/create", f"{mlflow}/ajax-api/2.0/mlflow/experiments/create"):
        assert evil.evaluate(READ, [url, json.dumps(named)]) == "refused"
        for kind in ("", "text/plain"):
            evil.evaluate(SEND, [url, kind])
    assert evil.evaluate(READ, [f"{mlflow}/api/2.0/mlflow/experiments/get?experiment_id=0", ""]) == "refused"
    found = ask(f"{mlflow}/api/2.0/mlflow/experiments/search", {"max_results": 10}).json()["experiments"]
    assert [experiment["name"] for experiment in found] == ["Default"]


def test_an_experiment_whose_files_lie_elsewhere_is_refused_by_mlflow(mlflow):
    url = f"{mlflow}/api/2.0/mlflow/experiments/create"
    for key in ("artifact_location", "artifactLocation"):
        refused = ask(url, {"name": "secrets", key: "file:///etc"})
        assert (refused.status_code, refused.json()["error_code"]) == (400, "INVALID_PARAMETER_VALUE")
        assert "file:///etc" in refused.json()["message"]
    assert ask(url, {"name": "usual"}).status_code == 200


def test_the_documented_command_is_guarded_and_prefect_s_own_is_said_not_to_be():
    text = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()
    (words,) = {
        tuple(found.split()) for found in re.findall(r"`python (-m deployments\.services\.prefect_server [^`]*)`", text)
    }
    for module, guarded in ((words, True), (("-m", "prefect", "server", "start"), False)):
        with tempfile.TemporaryDirectory(prefix="trainyard-own-", ignore_cleanup_errors=True) as folder, _home(folder):
            argv = (sys.executable, *module, "--host", "127.0.0.1", "--port", str(port := free_port()))
            with running(Service("own", argv, port, "/api/health", {})) as service:
                assert (unguarded(f"{service.url}/api") == []) is guarded
                answer = httpx.get(f"{service.url}/api/admin/version", headers={"Host": "evil.example"})
                assert (answer.status_code == 403) is guarded


TRACE = {"trace_location": {"type": "MLFLOW_EXPERIMENT", "mlflow_experiment": {"experiment_id": "0"}}}
TRACE |= {"trace_id": "tr-1", "request_time": "2026-01-01T00:00:00Z", "state": "OK"}


@pytest.mark.parametrize("key", ["mlflow.artifactLocation", "mlflow.trace.archiveLocation"])
def test_mlflow_reads_and_deletes_nothing_elsewhere_that_a_trace_names(mlflow, key):
    home = Path(os.environ["TRAINYARD_HOME"])
    (home / "traces.json").write_text('{"secret": 1}')
    begun = {"experiment_id": "0", "timestamp_ms": 1, "request_metadata": []}
    old, new = f"{mlflow}/api/2.0/mlflow/traces", f"{mlflow}/api/3.0/mlflow/traces"
    (made := ask(old, begun)).raise_for_status()
    trace = made.json()["trace_info"]["request_id"]
    tag = {"key": key, "value": f"file://{home}"}
    refused = [
        httpx.patch(f"{old}/{trace}/tags", json=tag),
        httpx.patch(f"{new}/{trace}/tags", json=tag),
        ask(old, {**begun, "tags": [tag]}),
        httpx.patch(f"{old}/{trace}", json={"timestamp_ms": 2, "status": "OK", "request_metadata": [], "tags": [tag]}),
        ask(new, {"trace": {"trace_info": {**TRACE, "tags": {key: tag["value"]}}}}),
    ]
    assert [answer.status_code for answer in refused] == [400] * 5, [answer.text for answer in refused]
    for version in ("2.0", "3.0"):
        url = f"{mlflow}/ajax-api/{version}/mlflow/get-trace-artifact"
        assert httpx.get(url, params={"request_id": trace, "path": "traces.json"}).status_code == 403
    assert httpx.patch(f"{new}/{trace}/tags", json={"key": "note", "value": "x"}).status_code == 200


@pytest.fixture(scope="module")
def locked() -> Iterator[str]:
    """The address of Prefect's server of a home with a password; ends with its home as TRAINYARD_HOME."""
    with tempfile.TemporaryDirectory(prefix="trainyard-foreign-", ignore_cleanup_errors=True) as folder, _home(folder):
        make_password()
        with running(prefect_service(free_port(), ui=True)) as service:
            yield service.url


def test_with_a_password_the_page_asks_for_it_and_programs_show_it(locked, browser, monkeypatch):
    known = password()
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", known)
    assert ask(f"{locked}/api/flows/count", {}).status_code == 401
    with asking(f"{locked}/api") as call:
        assert call("POST", "/flows/count", {}) == 0
    page = browser.new_page()
    page.goto(f"{locked}/runs")
    field = page.locator("input[type=password]")
    field.fill("wrong:one")
    page.get_by_role("button", name="Login").click()
    page.wait_for_timeout(1000)
    field.fill(known)
    page.get_by_role("button", name="Login").click()
    page.get_by_text("Run a task or flow").wait_for()
    page.close()
