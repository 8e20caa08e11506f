"""The gate before transformers' own server with a tiny random model."""

import base64
import io
import subprocess
import sys
import time
from pathlib import Path

import httpx
import openai
import psutil
import pytest
from PIL import Image

from deployments.services.service import free_port
from tests.tasks.vision_language.servers import gate_before, until
from tests.tasks.vision_language.yard_serve import make_model

START_S = 120


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    folder = make_model(tmp_path_factory.mktemp("models") / "tiny")
    port = free_port()
    command = [str(Path(sys.executable).parent / "transformers"), "serve", str(folder), "--device", "cpu"]
    process = subprocess.Popen([*command, "--host", "127.0.0.1", "--port", str(port)])
    url = f"http://127.0.0.1:{port}"
    try:
        until(lambda: process.poll() is not None or answers(url), START_S)
        yield process, url, str(folder)
    finally:
        process.kill()
        process.wait()


def answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health").status_code == 200
    except httpx.TransportError:
        return False


def picture(size: tuple[int, int] = (120, 90)) -> str:
    file = io.BytesIO()
    Image.new("RGB", size, "red").save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def question(n_images: int, size: tuple[int, int] = (120, 90)) -> list[dict]:
    images = [{"type": "image_url", "image_url": {"url": picture(size)}}] * n_images
    return [{"role": "user", "content": [*images, {"type": "text", "text": "What is on the image?"}]}]


def test_several_images_history_and_streams_through_openais_client(engine):
    _, url, model = engine
    with gate_before(url, model) as (_, gate):
        client = openai.OpenAI(base_url=f"{gate}/v1", api_key="none", max_retries=0, timeout=60)
        settings = {"model": "tiny", "max_tokens": 8, "temperature": 0, "seed": 1}
        whole = client.chat.completions.create(messages=question(2), **settings)
        again = "".join(
            chunk.choices[0].delta.content or ""
            for chunk in client.chat.completions.create(messages=question(2), stream=True, **settings)
        )
        assert again == whole.choices[0].message.content
        assert 1 <= whole.usage.completion_tokens <= 8
        history = [*question(1), {"role": "assistant", "content": "red"}, {"role": "user", "content": "sure?"}]
        longer = client.chat.completions.create(messages=history, **settings)
        assert longer.usage.prompt_tokens > 0


def test_an_image_costs_at_most_1280_tokens_whatever_its_size(engine):
    _, url, model = engine
    with gate_before(url, model) as (_, gate):
        body = {"model": "tiny", "messages": question(1, (3000, 2900)), "max_tokens": 1}
        usage = httpx.post(f"{gate}/v1/chat/completions", json=body, timeout=60).json()["usage"]
    assert 1200 < usage["prompt_tokens"] < 1350


def test_what_the_engine_alone_answers_with_500_is_a_sentence(engine):
    _, url, model = engine
    with gate_before(url, model) as (_, gate):
        for image in ("/etc/hostname", "file:///etc/hostname", f"{url}/health", "data:image/png;base64,AAAA"):
            content = [{"type": "image_url", "image_url": {"url": image}}]
            body = {"messages": [{"role": "user", "content": content}]}
            answer = httpx.post(f"{gate}/v1/chat/completions", json=body, timeout=60)
            assert answer.status_code in {400, 415}
            assert answer.json()["error"]["message"].startswith("messages[0].content[0]: ")


@pytest.mark.parametrize("leaves", [True, False], ids=["the client leaves", "its time is over"])
def test_the_engine_stops_computing_when(engine, leaves):
    process, url, model = engine
    with gate_before(url, model, time_limit_s=30 if leaves else 1) as (gate, address):
        body = {"max_tokens": 30_000, "temperature": 0}
        # A random model that takes the likeliest word each time turns in a circle; if it comes to its end all the same,
        # it is asked something else.
        asked = ({**body, "messages": [{"role": "user", "content": f"Count to {n}."}]} for n in range(3, 13))
        assert any(cut_off(f"{address}/v1/chat/completions", one, leaves) for one in asked)
        until(lambda: gate.slots.taken == 0)
    if psutil.Process(process.pid).is_running():
        until(lambda: cpu_share(process.pid) < 0.1)


def cut_off(url: str, body: dict, leaves: bool) -> bool:
    """Return whether no answer came: the client left after a second, or the gate said that the time is over."""
    try:
        answer = httpx.post(url, json=body, timeout=1 if leaves else 30)
    except httpx.ReadTimeout:
        return leaves
    return not leaves and answer.status_code == 504


def cpu_share(pid: int) -> float:
    before = sum(psutil.Process(pid).cpu_times()[:2])
    time.sleep(1)
    return sum(psutil.Process(pid).cpu_times()[:2]) - before
