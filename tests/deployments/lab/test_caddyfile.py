"""The Caddyfile that is shipped, run as it is with a certificate authority of one's own, in front of a real yard."""

import asyncio
import json
import os
import ssl
import subprocess
import sys

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from deployments.services.service import free_port
from tests.deployments.closed_yard import ROOT, SMALL, closed_yard, write_images
from tests.deployments.waiting import wait_for

HOST = "127.0.0.2"  # a name that is no loopback name: the guard has to be told of it
FILES = ROOT / "deployments" / "lab"


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ca")
    subprocess.run(["sh", FILES / "certificates.sh", HOST, folder], check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module")
def proxied(certificates, tmp_path_factory):
    """A yard behind Caddy, and the environment of a person on another machine."""
    prefect, mlflow = free_port(), free_port()
    with closed_yard(TRAINYARD_ALLOWED_HOSTS=HOST) as yard:
        environ = os.environ | {
            "YARD_HOST": HOST,
            "YARD_BIND": HOST,
            "YARD_PORT": str(prefect),
            "YARD_MLFLOW_PORT": str(mlflow),
            "YARD_PREFECT": yard.prefect.removeprefix("http://"),
            "YARD_MLFLOW": yard.mlflow.removeprefix("http://"),
            "YARD_CERT": str(certificates / "yard.pem"),
            "YARD_KEY": str(certificates / "yard.key"),
            "XDG_DATA_HOME": str(tmp_path_factory.mktemp("caddy")),
        }
        command = ["caddy", "run", "--config", FILES / "Caddyfile", "--adapter", "caddyfile"]
        with subprocess.Popen(command, env=environ, stderr=subprocess.DEVNULL) as caddy:
            try:
                yard.yard("auth", "add", "anna", text="anna-has-a-long-one\n")
                person = {
                    "TRAINYARD_HOME": str(yard.home.parent / "annas"),
                    "PREFECT_API_URL": f"https://{HOST}:{prefect}/api",
                    "PREFECT_API_SSL_CERT_FILE": str(certificates / "ca.pem"),
                    "PREFECT_API_AUTH_STRING": (yard.home / "password").read_text().strip(),
                    "MLFLOW_TRACKING_URI": f"https://{HOST}:{mlflow}",
                    "MLFLOW_TRACKING_SERVER_CERT_PATH": str(certificates / "ca.pem"),
                    "MLFLOW_TRACKING_USERNAME": "anna",
                    "MLFLOW_TRACKING_PASSWORD": "anna-has-a-long-one",
                }
                page = person["PREFECT_API_URL"].removesuffix("/api")
                wait_for(lambda: httpx.get(page, verify=trusting(certificates)).status_code == 200)
                yield yard, person
            finally:
                caddy.terminate()


def trusting(certificates):
    return ssl.create_default_context(cafile=certificates / "ca.pem")


def test_a_run_is_submitted_followed_and_read_through_it(proxied, tmp_path):
    yard, person = proxied
    data = write_images(tmp_path / "data")
    out = yard.yard("submit", "classification", f"data={data}", *SMALL, "--device", "cpu", "--watch", **person)
    assert "Completed after" in out
    run = json.loads(yard.yard("runs", "--json", **person))[0]
    assert "epoch 1/1" in yard.yard("logs", run["id"], **person)
    status = yard.yard("status", **person)
    assert f"mlflow    {person['MLFLOW_TRACKING_URI']}  works" in status
    assert "all is well" in status
    assert "accuracy/test" in yard.yard("history", "--format", "json", **person)


def test_without_the_certificate_a_sentence_says_so(proxied, tmp_path):
    yard, person = proxied
    said = yard.refused("runs", **person | {"PREFECT_API_SSL_CERT_FILE": ""})
    assert f"no answer from {person['PREFECT_API_URL']}" in said
    assert "certificate verify failed" in said
    said = yard.refused("runs", **person | {"PREFECT_API_SSL_CERT_FILE": "/nowhere.pem"})
    assert "found PREFECT_API_SSL_CERT_FILE=/nowhere.pem, need a file of certificates (PEM)" in said


def test_files_of_many_megabytes_pass(proxied, tmp_path):
    yard, person = proxied
    folder = tmp_path / "large"
    write_images(folder)
    (folder / "calm" / "0.bmp").write_bytes(b"BM" + os.urandom(40 * 2**20))
    sent = json.loads(yard.yard("upload", folder, "--flow", "split_images", "--no-wait", "--json", **person))
    assert sent["bytes"] > 40 * 2**20
    code = """
import mlflow, os
mlflow.set_experiment("anna")
with mlflow.start_run() as run:
    mlflow.log_metric("loss", 0.5)
print(mlflow.MlflowClient().get_run(run.info.run_id).data.metrics)
"""
    done = subprocess.run([sys.executable, "-c", code], env=yard.environ | person, capture_output=True, text=True)
    assert "{'loss': 0.5}" in done.stdout, done.stderr


def test_events_come_by_websocket_and_pages_of_others_do_not(proxied, certificates):
    _, person = proxied
    page = person["PREFECT_API_URL"].removesuffix("/api")
    address = f"{page.replace('https', 'wss')}/api/events/out"

    async def hello(origin: str) -> str:
        async with connect(
            address, subprotocols=["prefect"], ssl=trusting(certificates), additional_headers={"Origin": origin}
        ) as socket:
            await socket.send(json.dumps({"type": "auth", "token": person["PREFECT_API_AUTH_STRING"]}))
            return json.loads(await socket.recv())["type"]

    assert asyncio.run(hello(page)) == "auth_success"
    with pytest.raises(InvalidStatus, match="403"):
        asyncio.run(hello("https://elsewhere.invalid"))


@pytest.mark.parametrize("service", ["PREFECT_API_URL", "MLFLOW_TRACKING_URI"])
def test_the_page_itself_may_write_and_another_one_may_not(proxied, certificates, service):
    _, person = proxied
    url = person[service]
    path, user = "/flows/count", person["PREFECT_API_AUTH_STRING"]
    if service == "MLFLOW_TRACKING_URI":
        path, user = "/ajax-api/2.0/mlflow/runs/search", "anna:anna-has-a-long-one"
    name, _, secret = user.partition(":")
    with httpx.Client(verify=trusting(certificates), auth=(name, secret)) as client:
        for origin, code in ((url.removesuffix("/api"), 200), ("https://elsewhere.invalid", 403)):
            answer = client.post(f"{url}{path}", json={"experiment_ids": ["0"]}, headers={"Origin": origin})
            assert answer.status_code == code, answer.text
        other = client.get(f"{url}/health", headers={"Host": "other.invalid"})
        assert other.text.strip('" \n') not in {"true", "OK"}  # no page of that name
