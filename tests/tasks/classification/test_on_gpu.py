"""Paths of a training that only CUDA takes; each test runs on the CPU as well, as far as that has the path."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from tasks.classification.training.forward import predict
from tasks.classification.training.train import Trainer
from tasks.training.batches import Batches, ahead
from tests.tasks.classification.training.test_train import (
    N_CLASSES,
    Hungry,
    epochs,
    run,
    through_disk,
    toy_batches,
    toy_images,
    toy_model,
    toy_params,
)

GPU = pytest.param("cuda", marks=pytest.mark.gpu)
DEVICES = pytest.mark.parametrize("device", ["cpu", GPU], indirect=True)
ROOT = Path(__file__).parents[3]


@pytest.fixture
def device(request):
    return torch.device(request.param)


def trainer_on(device, precision="fp32", model=None, **options) -> Trainer:
    torch.manual_seed(0)
    return Trainer(model or toy_model(), N_CLASSES, toy_params(**options), device, precision)


def scaled(trainer: Trainer, scale: float) -> None:
    trainer.scaler.load_state_dict({**trainer.scaler.state_dict(), "scale": scale})


class Crowded(nn.Module):
    """Takes as much memory per image as the device has room for three of."""

    def __init__(self, inner: nn.Module, mib: int) -> None:
        super().__init__()
        self.inner, self.mib = inner, mib

    def forward(self, x):
        held = torch.empty(len(x) if self.training else 1, self.mib << 20, dtype=torch.uint8, device=x.device)
        return self.inner(x) + 0.0 * held[0, 0]


@pytest.fixture
def crowded(device):
    """A model that two or three images of fit into the memory, and no batch of eight."""
    if device.type == "cpu":
        yield Hungry(toy_model(), room=3)
        return
    total = torch.cuda.get_device_properties(device).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(min(1.0, (1 << 30) / total))  # 1 GiB, whatever the GPU has
    yield Crowded(toy_model(), mib=256)
    torch.cuda.set_per_process_memory_fraction(1.0)
    torch.cuda.empty_cache()


@DEVICES
def test_a_batch_that_fills_the_memory_is_halved_and_the_training_goes_on(device, crowded):
    trainer = trainer_on(device, model=crowded)
    found = run(trainer)
    assert len(epochs(found)) == 3
    assert trainer.pieces.n in (4, 8)
    assert all(torch.isfinite(p).all() for p in trainer.model.parameters())


@DEVICES
def test_predicting_goes_on_in_pieces_when_the_memory_is_full(device, crowded):
    class Training(nn.Module):  # predicting is what fills the memory here
        def forward(self, x):
            crowded.training = True
            return crowded(x)

    whole = [logits for logits, _ in predict(crowded.inner.to(device), toy_batches(16), device, "fp32")]
    pieces = [logits for logits, _ in predict(Training().eval(), toy_batches(16), device, "fp32")]
    torch.testing.assert_close(torch.cat(pieces), torch.cat(whole), rtol=1e-4, atol=1e-5)


@DEVICES
def test_another_error_of_the_device_is_no_lack_of_memory(device):
    code = f"""
import torch
from tasks.training.pieces import ran_out_of_memory
try:
    torch.zeros(3, device={device.type!r})[torch.tensor([7], device={device.type!r})].cpu()
except (RuntimeError, IndexError) as exc:  # on a GPU a device-side assert, after which nothing works in the process
    assert not ran_out_of_memory(exc), exc
    print("told apart")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.stdout == "told apart\n", done.stderr


@DEVICES
def test_scaled_gradients_train_and_their_scale_survives_a_restart(device):
    whole, before = (trainer_on(device, "fp16", num_epochs=6) for _ in range(2))
    events = before.run(toy_batches(), toy_batches(9, shuffle=False, seed=5))
    for _ in range(7):
        next(events)
    scaled(before, 1024.0)
    after = trainer_on(device, "fp16", num_epochs=6)
    after.load_state_dict(through_disk(before.state_dict()))
    assert after.scaler.get_scale() == 1024.0
    run(after)
    assert epochs(run(whole))[-1].best_acc > 0.6


@DEVICES
def test_a_step_whose_gradients_overflow_is_left_out_and_the_scale_goes_down(device):
    trainer = trainer_on(device, "fp16")
    scaled(trainer, 2.0**40)  # no gradient in half precision holds that
    weights = [p.detach().clone() for p in trainer.model.parameters()]
    next(trainer.run(toy_batches(), toy_batches(9, shuffle=False, seed=5)))
    assert trainer.scaler.get_scale() == 2.0**39
    for before, now in zip(weights, trainer.model.parameters(), strict=True):
        assert torch.equal(before, now.detach())


@pytest.mark.filterwarnings("ignore")  # torch.compile warns of its own parts
@pytest.mark.parametrize("device", [pytest.param("cpu", marks=pytest.mark.long), GPU], indirect=True)
def test_compiled_graphs_of_every_shape_of_batch_train_as_the_plain_model(device):
    trained = []
    for compiled in (False, True):
        torch.manual_seed(0)
        model = toy_model()
        model[5].p = 0.0  # a compiled graph drops others
        trainer = trainer_on(device, model=model, compile=compiled, optimizer="sgd")
        trained.append([e.train_loss for e in epochs(run(trainer))])  # batches of 8, and of 6 at the end
    assert trained[1] == pytest.approx(trained[0], rel=1e-2)
    torch.compiler.reset()


COMPILES = """
import sys, torch
from tests.tasks.classification.test_on_gpu import trainer_on, run, epochs
print(epochs(run(trainer_on(torch.device(sys.argv[1]), compile=True, num_epochs=1)))[-1].train_loss)
"""


@pytest.mark.parametrize("device", [pytest.param("cpu", marks=pytest.mark.long), GPU], indirect=True)
def test_two_runs_that_compile_the_same_at_once_do_not_disturb_each_other(device, tmp_path):
    env = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "i"), "TRITON_CACHE_DIR": str(tmp_path / "t")}
    argv = [sys.executable, "-W", "ignore", "-c", COMPILES, device.type]
    runs = [subprocess.Popen(argv, env=env, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    losses = [float(process.communicate(timeout=500)[0]) for process in runs]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


FORKS = """
import multiprocessing, sys, torch
import flows.classification, tasks.classification.steps, tasks.classification.training.session
from gpu_pools.placement.probe import get_probe
from tests.tasks.classification.test_on_gpu import toy_batches, trainer_on
get_probe().devices()
list(toy_batches().epoch(0))
assert not torch.cuda.is_initialized(), "nothing may touch CUDA before the slot is there, or a child that is forked"

def train(queue):
    trainer = trainer_on(torch.device(sys.argv[1]), num_epochs=1)
    list(trainer.run(toy_batches(), toy_batches(9, shuffle=False)))
    queue.put(trainer.device.type)

context = multiprocessing.get_context("fork")
queue = context.SimpleQueue()
child = context.Process(target=train, args=(queue,))
child.start(); child.join(300)
print(child.exitcode, queue.get())
"""


@pytest.mark.parametrize("device", [pytest.param("cpu", marks=pytest.mark.long), GPU], indirect=True)
def test_what_comes_before_the_slot_leaves_cuda_to_a_child_that_is_forked(device):
    env = {**os.environ, "OMP_NUM_THREADS": "1"}  # torch's own threads do not survive a fork
    argv = [sys.executable, "-c", FORKS, device.type]
    done = subprocess.run(argv, env=env, cwd=ROOT, capture_output=True, text=True, timeout=500)
    assert done.stdout == f"0 {device.type}\n", done.stderr


@DEVICES
def test_batches_from_page_locked_memory_arrive_whole_while_the_device_is_busy(device):
    images, labels = toy_images(64)
    on_gpu = device.type == "cuda"
    batches = Batches(lambda i: images[i], labels, 8, pin=on_gpu)
    seen = []
    for epoch in range(20):  # the same page-locked memory is filled again and again
        for pixels, _ in ahead(batches.epoch(epoch), device):
            if on_gpu:
                torch.cuda._sleep(1_000_000)  # the next copy is on its way meanwhile
            seen.append(pixels.double().sum())
    assert [float(total) for total in seen] == [float(images[i : i + 8].sum()) for i in range(0, 64, 8)] * 20
