"""The fastest format is found by measuring, once, and only where that pays."""

import json

import pytest
import torch

from tasks.base.errors import ConfigError
from tasks.inference.number_format import MEASURED_FROM, choose_format
from tasks.inference.params import PredictParams
from tasks.inference.weights import from_file, load

CPU = torch.device("cpu")


def choose(weights, cache, wanted="auto", n_images=MEASURED_FROM):
    model = load(from_file(weights, PredictParams()), CPU)
    return choose_format(wanted, model, CPU, 32, n_images, cache=cache, key="net")


def test_a_few_pictures_are_not_measured_for(weights, tmp_path):
    assert choose(weights, tmp_path, n_images=3) == ("fp32", "precision fp32: not worth measuring for 3 image(s)")
    assert not list(tmp_path.iterdir())


def test_many_are_measured_for_once_and_few_take_that_answer(weights, tmp_path):
    best, why = choose(weights, tmp_path)
    (path,) = tmp_path.iterdir()
    seconds = json.loads(path.read_text())["seconds"]
    assert best == ("bf16" if seconds["bf16"] < 0.9 * seconds["fp32"] else "fp32")
    assert choose(weights, tmp_path, n_images=1) == (best, why)
    path.write_text(json.dumps({"seconds": {"fp32": 2.0, "bf16": 1.0}}))
    assert choose(weights, tmp_path) == ("bf16", "precision bf16: measured per 16 images: fp32 2000 ms, bf16 1000 ms")


def test_a_format_that_is_asked_for_is_taken(weights, tmp_path):
    assert choose(weights, tmp_path, "bf16")[0] == "bf16"
    with pytest.raises(ConfigError, match="fp16 needs a GPU"):
        choose(weights, tmp_path, "fp16")
