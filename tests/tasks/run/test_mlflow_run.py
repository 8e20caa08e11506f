"""What MLflow is told of the device of a run."""

import pytest

from gpu_pools.placement.probe import get_probe
from gpu_pools.process.run_setup import DEVICE, ON
from gpu_pools.slots.lease import acquire_all
from tasks.run.mlflow_run import device_text, hold_mlflow_run
from tests.gpu_pools.placement.test_place import holder

H200, A100 = "NVIDIA H200", "NVIDIA A100"


@pytest.mark.parametrize(
    ("where", "names", "others", "text"),
    [
        ("cpu", [], [], "cpu"),
        ("cuda:1", [H200], [], "cuda:1 (NVIDIA H200)"),
        ("cuda:0,cuda:2", [H200, H200], [], "cuda:0,cuda:2 (2 x NVIDIA H200)"),
        ("cuda:0,cuda:1,cuda:2", [A100, H200, A100], [], "cuda:0,cuda:1,cuda:2 (2 x NVIDIA A100, NVIDIA H200)"),
        ("cuda:0", [H200], ["boxb", "boxc"], "cuda:0 (NVIDIA H200), and as many on boxb and boxc"),
    ],
    ids=["cpu", "one", "two alike", "three of two kinds", "three hosts"],
)
def test_the_products_of_all_gpus_are_said(where, names, others, text):
    assert device_text(where, names, others) == text


def test_a_run_that_holds_two_gpus_names_both(client, tmp_path, monkeypatch):
    monkeypatch.setenv("TRAINYARD_SIMULATE_GPUS", "2")
    monkeypatch.setenv("TRAINYARD_LOCK_DIR", str(tmp_path / "locks"))
    gpus = get_probe().devices()
    lease = acquire_all([(1, holder(device=gpu.tag, uuid=gpu.uuid)) for gpu in gpus])
    for name, value in {**lease.env, ON: lease.tag, DEVICE: "cuda"}.items():
        monkeypatch.setenv(name, value)
    with lease, hold_mlflow_run(tmp_path, {}, "cuda", "two", "two", free=()) as (tracker, _):
        pass
    assert client.get_run(tracker.run_id).data.tags["device"] == "cuda:0,cuda:1 (simulated GPU 0, simulated GPU 1)"
