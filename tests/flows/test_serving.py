"""`yard serve` as people start it, and how it ends."""

import os
import signal

import httpx
import openai
import psutil
import pytest

from tests.tasks.vision_language.yard_serve import ENGINE, address, ends, make_model, yard_serve


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.mark.timeout(400)
def test_a_model_answers_and_a_killed_run_leaves_no_process(tmp_path, model):
    with yard_serve(tmp_path, model) as process:
        said = address(tmp_path, process)
        client = openai.OpenAI(base_url=f"{said['url']}/v1", api_key="none", max_retries=0, timeout=60)
        (served,) = client.models.list()
        question = [{"role": "user", "content": "hi"}]
        answer = client.chat.completions.create(model=served.id, messages=question, max_tokens=4)
        assert answer.usage.completion_tokens <= 4
        family = [said["pid"], *(child.pid for child in psutil.Process(said["pid"]).children(recursive=True))]
        assert len(family) > 1
        process.kill()
        assert ends(family)
        with pytest.raises(httpx.TransportError):
            httpx.get(f"{said['url']}/health")


@pytest.mark.timeout(300)
@pytest.mark.long
def test_a_server_that_nobody_asks_ends_and_says_so(tmp_path, model):
    with yard_serve(tmp_path, model, "--engine", ENGINE, "--idle", "1s") as process:
        output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    assert "ended because nobody has asked anything for 1 s" in output


@pytest.mark.timeout(300)
@pytest.mark.long
def test_ctrl_c_and_an_engine_that_is_killed_end_a_server(tmp_path, model):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with yard_serve(tmp_path / "a", model, "--engine", ENGINE) as process:
        said = address(tmp_path / "a", process)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=60)
        assert process.returncode == 130, output
        assert ends([said["pid"]])
        assert not list((tmp_path / "a").glob("runs/*/serving/address.json"))
    with yard_serve(tmp_path / "b", model, "--engine", ENGINE) as process:
        said = address(tmp_path / "b", process)
        os.kill(said["pid"], signal.SIGKILL)
        output, _ = process.communicate(timeout=60)
        assert process.returncode == 1
        assert "the engine ended with code -9" in output
