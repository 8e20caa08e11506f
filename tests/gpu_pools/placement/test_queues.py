"""Names of queues and devices, limits, priorities and durations."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpu_pools.placement.probe import SimulatedProbe
from gpu_pools.placement.queues import (
    KINDS,
    Queue,
    QueueError,
    default_limit,
    default_priority,
    host_queues,
    parse_device,
    parse_duration,
    parse_queue,
)
from tasks.base.errors import ConfigError

HOSTS = st.none() | st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,12}[A-Za-z0-9])?", fullmatch=True)
NUMBERS = st.integers(0, 99).map(lambda n: f"cuda:{n}")
QUEUES = st.builds(Queue, st.just("cuda") | NUMBERS, st.sampled_from(["training", "inference"]), HOSTS) | st.builds(
    Queue, st.just("cpu"), st.sampled_from(KINDS), HOSTS
)


@given(QUEUES)
def test_a_queue_is_what_its_name_says(queue):
    assert parse_queue(queue.name) == queue


@given(QUEUES)
def test_a_label_means_the_queue_s_host_and_device(queue):
    assert parse_device(queue.label) == (queue.host, queue.device)


@given(QUEUES)
def test_a_name_has_nothing_that_prefect_refuses(queue):
    assert not set(queue.name) & set("/%&<>")


def test_a_host_may_have_dots_in_its_name():
    assert parse_queue("boxb.lab.example.cuda:1.training") == Queue("cuda:1", "training", "boxb.lab.example")


@pytest.mark.parametrize(
    "name",
    [
        "",
        "default",
        "cuda",
        "training",
        "cuda.train",
        "cuda:0.preparation",
        "cuda.pipeline",
        "cuda:.training",
        "cuda:01.training",
        "cuda:-1.training",
        "cuda:\N{ARABIC-INDIC DIGIT ONE}.training",
        "gpu.training",
        "boxb/cuda:1.training",
        ".cuda.training",
        "cuda.training\n",
        "CUDA.training",
    ],
)
def test_any_other_name_is_an_error_that_says_what_is_needed(name):
    with pytest.raises(QueueError, match=r"need a device \(cuda, cuda:N"):
        parse_queue(name)


@pytest.mark.parametrize("text", ["", "gpu", "cuda:", "cuda:01", "cuda:1/boxb", "/cuda", "box b/cuda", "boxb.cuda:1"])
def test_a_misspelt_device_is_an_error(text):
    with pytest.raises(QueueError, match="need cpu, cuda, cuda:N"):
        parse_device(text)


def test_only_cuda_leaves_the_choice():
    assert not Queue("cuda", "training").pinned
    assert Queue("cuda:0", "training").pinned
    assert Queue("cpu", "training").pinned


@pytest.mark.parametrize(("memory_mib", "n_inferences"), [(24564, 3), (20480, 3), (12288, 2), (10240, 2), (8192, 1)])
def test_a_gpu_takes_one_training_and_inferences_by_its_memory(memory_mib, n_inferences):
    limits = [default_limit(kind, memory_mib) for kind in KINDS]
    assert limits == [1, n_inferences, 0, 0, 0]


def test_the_cpu_takes_two_trainings_four_inferences_two_preparations():
    assert [default_limit(kind, None) for kind in KINDS] == [2, 4, 2, 16, 1]


def test_an_inference_goes_before_a_training():
    assert [default_priority(kind) for kind in KINDS] == [5, 3, 5, 5, 5]


def test_a_host_has_a_queue_for_each_device_and_kind():
    large, small = SimulatedProbe(2).devices()
    queues = host_queues([large, replace(small, memory_total_mib=8192)], "boxb")
    assert {queue.name: limit for queue, limit in queues.items()} == {
        "cuda.training": None,
        "cuda.inference": None,
        "cuda:0.training": 1,
        "cuda:0.inference": 3,
        "cuda:1.training": 1,
        "cuda:1.inference": 1,
        "cpu.training": 2,
        "cpu.inference": 4,
        "cpu.preparation": 2,
        "cpu.pipeline": 16,
        "cpu.housekeeping": 1,
        # Named with the host they have no limit of their own, but that of the device.
        **dict.fromkeys(
            f"boxb.{gpu}.{kind}" for gpu in ("cuda:0", "cuda:1", "cuda") for kind in ("training", "inference")
        ),
        **dict.fromkeys(f"boxb.cpu.{kind}" for kind in ("training", "inference", "preparation", "housekeeping")),
    }


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("90s", 90),
        ("30m", 1800),
        ("5h", 18000),
        ("2d", 172800),
        (" 1.5 h ", 5400),
    ],
)
def test_a_duration_is_in_seconds(value, seconds):
    assert parse_duration(value) == seconds


@pytest.mark.parametrize(
    "value", ["", "h", "90", 90, 1.5, "5 hours", "-5m", "0", 0, -1, "1h30m", float("inf"), float("nan"), True]
)
def test_a_duration_that_is_none_is_an_error(value):
    with pytest.raises(ConfigError, match="need a number above 0 with s, m, h or d"):
        parse_duration(value)
