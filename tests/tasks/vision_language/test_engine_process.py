"""Which engines are started, and how."""

import sys
from pathlib import Path

import pytest

from tasks.base.errors import ConfigError
from tasks.vision_language.engine_process import EngineError, check_engine, command_of, engine_running, free_port


def test_the_commands_of_the_known_engines():
    folder = Path("/models/a")
    place = ["--host", "127.0.0.1", "--port", "9"]
    ours = command_of("transformers", folder, 9, on_gpu=True)
    assert ours[1:] == ["serve", "/models/a", *place, "--device", "cuda"]
    assert command_of("/opt/vllm/bin/vllm", folder, 9, on_gpu=True) == [
        "/opt/vllm/bin/vllm",
        "serve",
        "/models/a",
        *place,
    ]
    words = command_of("llama-server -m '{model}/x y.gguf' --port {port}", folder, 9, on_gpu=False)
    assert words == ["llama-server", "-m", "/models/a/x y.gguf", "--port", "9"]


@pytest.mark.parametrize("engine", ["sglang", "a 'b {port}"])
def test_a_command_that_cannot_work_is_refused(engine):
    with pytest.raises(ConfigError, match="found the engine"):
        command_of(engine, Path("/models/a"), 9, on_gpu=False)


def test_a_run_from_the_queue_starts_no_command_that_nobody_has_listed(monkeypatch):
    monkeypatch.delenv("TRAINYARD_ENGINES", raising=False)
    check_engine("sh -c evil {port}", queued=False)
    check_engine("vllm", queued=True)
    for engine in ("sh -c evil {port}", "/tmp/vllm"):
        with pytest.raises(ConfigError, match="TRAINYARD_ENGINES"):
            check_engine(engine, queued=True)
    monkeypatch.setenv("TRAINYARD_ENGINES", "/opt/vllm/bin/vllm, other {port}")
    check_engine("/opt/vllm/bin/vllm", queued=True)


def test_an_engine_that_ends_or_stays_silent_is_told_with_its_last_words(tmp_path):
    ending = [sys.executable, "-c", "print('no memory'); exit(3)"]
    with pytest.raises(EngineError, match=r"(?s)ended with code 3.*no memory"):
        with engine_running(ending, free_port(), tmp_path / "engine.log", 60):
            pass
    silent = [sys.executable, "-c", "import time; time.sleep(60)"]
    with pytest.raises(EngineError, match="not ready after 0.5 s"):
        with engine_running(silent, free_port(), tmp_path / "engine.log", 0.5):
            pass
