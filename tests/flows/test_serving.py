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
def test_a_server_that_nobody_asks_ends_and_what_it_did_is_in_mlflow(tmp_path, model):
    with yard_serve(tmp_path, model, "--engine", ENGINE, "--idle", "2s") as process:
        url = address(tmp_path, process)["url"]
        for n_words in (4, 6):
            assert httpx.post(f"{url}/api/chat", data={"prompt": f"words {n_words}"}, timeout=30).status_code == 415
            form = {"prompt": (None, f"words {n_words}")}
            assert httpx.post(f"{url}/api/chat", files=form, timeout=30).status_code == 200
        output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    assert "ended because nobody has asked anything for 2 s" in output
    (run,) = runs_of(f"sqlite:///{tmp_path}/mlflow/mlflow.db")
    assert (run.info.status, run.info.run_name) == ("FINISHED", "serve-tiny")
    assert run.data.params["model"] == "tiny"
    assert run.data.params["serve.engine"] == ENGINE
    assert run.data.tags["device"] == "cpu"
    wanted = {"requests/answered": 2, "requests/refused_or_failed": 2, "requests/busy": 0, "queue/limit": 3}
    wanted |= {"tokens/generated": 10, "tokens/prompt": 14}
    assert {name: run.data.metrics[name] for name in wanted} == wanted
    assert 0 < run.data.metrics["first_token_s/median"] <= run.data.metrics["first_token_s/p95"] < 5
    assert run.data.metrics["tokens/per_second"] > 0


def runs_of(store):
    import mlflow

    client = mlflow.MlflowClient(store)
    experiment = client.get_experiment_by_name("serving")
    return client.search_runs([experiment.experiment_id])


@pytest.mark.timeout(300)
@pytest.mark.long
def test_a_server_serves_without_mlflow_and_ends_well(tmp_path, model):
    words = ("--engine", ENGINE, "--idle", "2s")
    with yard_serve(tmp_path, model, *words, MLFLOW_TRACKING_URI="http://127.0.0.1:9") as process:
        url = address(tmp_path, process)["url"]
        assert httpx.post(f"{url}/api/chat", files={"prompt": (None, "words 4")}, timeout=30).status_code == 200
        output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    assert "ended because nobody has asked anything for 2 s" in output
    assert "yard sync" in output  # the command that sends the figures


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
