"""Each check says no where something is wrong, and what to do."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from gpu_pools.placement.devices import Device
from tasks.base.errors import ConfigError
from tasks.classification.training.events import EpochMetrics
from tasks.classification.training.train import Trainer
from tasks.trial import memory
from tasks.trial.agreement import agreement_row, gradients
from tasks.trial.facts import gpu_row
from tasks.trial.memory import halved_batch, halved_row, rate_row
from tasks.trial.plan import TrialCheck
from tasks.trial.report import Place
from tasks.trial.resume import resumed_row
from tasks.trial.runner import call
from tasks.trial.speed import Speed, TrainingSize, speed_row
from tasks.trial.splats import checks
from tasks.trial.splats.checks import image_row, loss_off, loss_row, refinement, refinement_row, shared_by_formula
from tasks.trial.splats.fit import SIZES, Found, fit_row

CPU = Place("cpu", "the CPU", "cpu", "cpu")
GPU = Place("cuda:0", "NVIDIA H200", "GPU-1", "cuda")


def failed(row, *words):
    assert row.verdict == "failed", row
    assert row.todo
    for word in words:
        assert word in row.figure
    return True


def test_a_training_with_another_loss_does_not_agree(monkeypatch, tmp_path):
    (row,) = gradients(CPU, tmp_path)
    assert row.verdict == "ok", row
    own = Trainer._loss
    monkeypatch.setattr(Trainer, "_loss", lambda self, *given: 1.001 * own(self, *given))
    (row,) = gradients(CPU, tmp_path)
    assert failed(row, "loss 1.0e-03 off")


def test_a_gradient_that_is_no_number_does_not_agree():
    nan, one = torch.tensor([float("nan")]), torch.ones(1)
    assert failed(agreement_row((1.0, [nan]), (1.0, [one])))


def test_a_batch_that_is_not_cut_ends_the_training_and_that_is_its_row(monkeypatch, tmp_path):
    (row,) = halved_batch(CPU, tmp_path)
    assert (row.verdict, row.values["pieces"], row.values["images"]) == ("ok", 4, 48)
    for module in ("tasks.training.pieces", "tasks.training.trainer"):
        monkeypatch.setattr(f"{module}.ran_out_of_memory", lambda exc: False)
    (row,) = call(TrialCheck("batch too large", "tasks.trial.memory.halved_batch", 5), CPU, tmp_path)
    assert failed(row, "OutOfMemoryError", "as if the memory held 5")


def test_a_model_that_fits_does_not_pass_for_one_that_was_cut(monkeypatch, tmp_path):
    monkeypatch.setattr(memory.Limited, "forward", lambda self, images: self.inner(images))
    (row,) = halved_batch(CPU, tmp_path)
    assert failed(row, "was not cut")


def test_images_that_got_lost_in_pieces_are_a_failure():
    metrics = SimpleNamespace(notes=("out of memory at 16 images: ...",), train_loss=1.0)
    assert halved_row(CPU, 16, metrics, 48).verdict == "ok"
    assert failed(halved_row(CPU, 16, metrics, 40))
    assert EpochMetrics.__dataclass_fields__.keys() >= {"notes", "train_loss"}


@pytest.mark.parametrize(("place", "rate"), [(GPU, 2.9), (CPU, 0.4)])
def test_a_slow_copy_is_a_failure(place, rate):
    assert failed(rate_row(place, rate))
    assert rate_row(place, 2 * rate).verdict == "ok"


SPEED = Speed(ours=4000, plain=4500, ratio=0.89, busy=0.97, waiting=0.02, peak=2**30, plain_peak=2**29)
SIZE = TrainingSize(256, 224, 60, 3)


def test_a_slow_training_is_a_failure_that_says_what_is_waited_for():
    well = speed_row(GPU, "resnet18", SIZE, "bf16", SPEED)
    assert well.verdict == "ok"
    assert "GPU 97 % busy; at most 1.00 GiB (plain 0.50)" in well.figure
    slow = replace(SPEED, ratio=0.84)
    row = speed_row(GPU, "resnet18", SIZE, "bf16", slow)
    assert failed(row, "0.84 of a plain loop (at least 0.85)")
    assert "something else uses this machine" in row.todo
    assert "waiting for images" in speed_row(GPU, "resnet18", SIZE, "bf16", replace(slow, waiting=0.3)).todo


def test_one_bit_makes_a_resumed_training_another_one():
    whole = {"a": torch.ones(3), "b": torch.zeros(2)}
    assert resumed_row(whole, dict(whole), "goes on at epoch 3").verdict == "ok"
    other = {**whole, "a": torch.tensor([1.0, 1.0, 1.0 + 1e-7])}
    assert failed(resumed_row(whole, other, "goes on at epoch 3"), "1 of 2 tensors differ")
    assert failed(resumed_row(whole, {"a": whole["a"]}, "goes on at epoch 3"))
    assert failed(resumed_row(whole, dict(whole), ""), "not gone on")


DEVICE = Device(0, "GPU-1", "NVIDIA H200", "9.0", 143771, 10, 143761, 0, None, None, ())
SEEN = {"n": 1, "name": "NVIDIA H200", "capability": "9.0", "memory_mib": 143156, "uuid": "GPU-1", "sum": 1000.0}


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"uuid": "GPU-2"}, "uuid: NVML GPU-1, torch GPU-2"),
        ({"capability": "8.0"}, "compute capability: NVML 9.0, torch 8.0"),
        ({"memory_mib": 70000}, "memory: NVML 143771 MiB, torch 70000 MiB"),
        ({"n": 2}, "torch sees 2 GPUs, need one"),
        ({"sum": 999.0}, "a sum of a thousand ones is 999.0"),
    ],
)
def test_torch_must_see_the_gpu_that_was_meant(wrong, said):
    assert gpu_row(DEVICE, SEEN, "580.1 (CUDA 13.0)").verdict == "ok"
    assert failed(gpu_row(DEVICE, SEEN | wrong, "580.1 (CUDA 13.0)"), said)


def test_a_wrong_picture_and_a_wrong_gradient_are_failures():
    right = [torch.ones(4, 4, 3), torch.ones(5)]
    assert image_row(CPU, right, right).verdict == "ok"
    assert failed(image_row(CPU, [1.001 * right[0], right[1]], right))
    assert failed(image_row(GPU, [right[0], 1.02 * right[1]], right))


def test_a_loss_with_another_window_is_a_failure(monkeypatch):
    cpu = torch.device("cpu")
    assert loss_row(*loss_off(cpu)).verdict == "ok"
    own = checks.photo_loss
    monkeypatch.setattr(checks, "photo_loss", lambda drawn, taken, mask, share: own(drawn, taken, mask, share + 1e-3))
    assert failed(loss_row(*loss_off(cpu)))


def test_copies_that_do_not_share_as_the_formula_has_it_are_a_failure(monkeypatch):
    cpu = torch.device("cpu")
    assert refinement(cpu).verdict == "ok"
    monkeypatch.setattr(checks, "shared_by_formula", lambda opacity, n: (opacity, shared_by_formula(opacity, n)[1]))
    assert failed(refinement(cpu))
    assert failed(refinement_row(0.0, dead=3, n=390, wanted=390), "3 of them dead")
    assert failed(refinement_row(0.0, dead=0, n=380, wanted=390))


def test_one_copy_is_what_it_was_and_two_have_their_closed_form():
    assert shared_by_formula(0.7, 1) == pytest.approx((0.7, 1.0))
    new = 1 - 0.3**0.5
    assert shared_by_formula(0.7, 2) == pytest.approx((new, 0.7 / (2 * new - new**2 / 2**0.5)))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"psnr": 19.9}, "19.9 dB"),
        ({"plain_psnr": 32.0}, "at least 31.0"),
        ({"steps_s": 80.0}, "0.80 of gsplat's loop"),
    ],
)
def test_a_bad_or_slow_fit_is_a_failure(wrong, said):
    well = Found(steps_s=200.0, psnr=30.0, plain_steps_s=100.0, plain_psnr=30.2)
    assert fit_row(GPU, SIZES["cuda"], well).verdict == "ok"
    assert failed(fit_row(GPU, SIZES["cuda"], replace(well, **wrong)), said)


def test_a_slow_fit_without_triton_says_what_it_wants():
    found = Found(steps_s=50.0, psnr=30.0, plain_steps_s=100.0, plain_psnr=30.2, fused=False)
    row = fit_row(GPU, SIZES["cuda"], found)
    assert failed(row, "Triton does not run")
    assert "gcc and Python's headers" in row.todo


def test_without_gsplat_the_fit_is_tried_all_the_same():
    row = fit_row(CPU, SIZES["cpu"], Found(steps_s=200.0, psnr=30.0, plain_steps_s=None, plain_psnr=None))
    assert row.verdict == "ok"
    assert "gsplat's loop not here" in row.figure


def test_kernels_that_are_not_built_are_said_and_fail_nothing(monkeypatch):
    def missing(where):
        raise ConfigError("gsplat in /x has no kernels for this GPU in any folder: `yard kernels build` compiles them")

    monkeypatch.setattr(checks, "rasterizer_of", missing)
    row = checks.image(GPU, torch.device("cpu"))
    assert row.verdict == "not here"
    assert "no kernels for this GPU" in row.figure
    assert "yard kernels build" in row.todo
