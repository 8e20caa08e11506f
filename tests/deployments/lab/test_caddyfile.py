"""The Caddyfile that is shipped, run as it is with a certificate authority of one's own, in front of a real yard."""

import asyncio
import json
import os
import subprocess
import sys

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from tests.deployments.closed_yard import SMALL, write_images
from tests.deployments.lab.proxied import ANNA, proxied_yard, trusting


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    return tmp_path_factory.mktemp("ca")


@pytest.fixture(scope="module")
def proxied(certificates):
    with proxied_yard(certificates) as found:
        yield found


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
        path, user = "/ajax-api/2.0/mlflow/runs/search", f"anna:{ANNA}"
    name, _, secret = user.partition(":")
    with httpx.Client(verify=trusting(certificates), auth=(name, secret)) as client:
        for origin, code in ((url.removesuffix("/api"), 200), ("https://elsewhere.invalid", 403)):
            answer = client.post(f"{url}{path}", json={"experiment_ids": ["0"]}, headers={"Origin": origin})
            assert answer.status_code == code, answer.text
        other = client.get(f"{url}/health", headers={"Host": "other.invalid"})
        assert other.text.strip('" \n') not in {"true", "OK"}  # no page of that name
