"""How many times a training step calls a GPU, and how often it waits for one, counted without one.

Triton interprets our kernels, gsplat's PyTorch versions stand in for its own; every operation of torch that would be a
launch counts as one, so does every kernel of ours, and what gsplat's functions do inside counts as the rasteriser's. A
wait is what needs a value or a size from the GPU before it can go on. `ratio` is splat_launches / 40, the bound.
Networks are trained on a device that is none, whose tensors lie apart from the CPU's, so that copies are seen as well.

    python benchmarks/step_cost.py
"""

import json
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

os.environ.setdefault("TRITON_INTERPRET", "1")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from tasks.classification.models import build_model
from tasks.classification.params import TrainParams
from tasks.classification.training.train import Trainer
from tasks.recognition.detector.training.session import DetectorSession
from tasks.recognition.index.training.session import IndexSession
from tasks.recognition.params import DetectorParams, IndexParams
from tasks.splatting.fit import triton_steps
from tasks.splatting.loss import triton_loss
from tasks.splatting.render import fused_draw
from tasks.splatting.render.cuda_rasterizer import CudaRasterizer
from tasks.training.batches import Batches
from tasks.training.events import BatchDone
from tests.far_device import FAR, FREE, WAITS, Far
from tests.tasks.recognition.detector.conftest import write_dataset as write_detector_dataset
from tests.tasks.recognition.index.conftest import write_dataset as write_index_dataset
from tests.tasks.splatting.fit_scene import make_fit, make_scene
from tests.tasks.splatting.gsplat_reference import Kernels

MOST_LAUNCHES = 40
ALL_OPTIONS: dict[str, Any] = {
    "mixup": 0.4,
    "horizontal_flip": True,
    "ema_decay": 0.9,
    "clip_grad_norm": 1.0,
    "label_smoothing": 0.1,
    "class_weights": "balanced",
    "accumulate": 2,
}
"""Of a training of a classifier: all that its steps can have to do."""
PARTS = {"render.fused_draw": fused_draw, "loss.triton_loss": triton_loss, "fit.triton_steps": triton_steps}
# Methods that bring values to the host, and functions that send the host's, without an operation that tells.
CARRIES = {"tolist", "numpy", "cpu", "__array__", "tensor", "as_tensor"}


class _Carried(TorchFunctionMode):
    """Counts what goes between host and GPU as waits of `calls`."""

    def __init__(self, calls: "Calls") -> None:
        super().__init__()
        self._calls = calls

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Look at one call and do it."""
        name, given = getattr(func, "__name__", ""), kwargs or {}
        sent = name in {"tensor", "as_tensor"} and given.get("device") is not None and not _is_tensor(args[:1])
        if sent or name in CARRIES - {"tensor", "as_tensor"}:
            self._calls.waited(name)
        return func(*args, **given)


def _is_tensor(values: Any) -> bool:
    return bool(values) and isinstance(values[0], torch.Tensor)


class Calls(TorchDispatchMode):
    """Counts operations by name while it is entered, and those inside `aside` apart."""

    def __init__(self) -> None:
        super().__init__()
        self.launches: Counter[str] = Counter()
        self.waits: Counter[str] = Counter()
        self._aside = 1
        self._carried = _Carried(self)

    def __enter__(self) -> "Calls":
        """Begin to count."""
        self._aside -= 1
        self._carried.__enter__()
        super().__enter__()
        return self

    def __exit__(self, *exc: Any) -> None:
        """Count no more."""
        super().__exit__(*exc)
        self._carried.__exit__(*exc)
        self._aside += 1

    def waited(self, name: str) -> None:
        """Count a wait."""
        if not self._aside:
            self.waits[name] += 1

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count one operation and do it."""
        name = func.overloadpacket.__name__
        if not self._aside:
            by_mask = name in {"index", "index_put_", "index_put"} and any(
                index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1]
            )
            if name in WAITS or by_mask:
                self.waited(name)
            elif name not in FREE:
                self.launches[name] += 1
        return func(*args, **(kwargs or {}))

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Count nothing in the block."""
        self._aside += 1
        try:
            yield
        finally:
            self._aside -= 1

    def kernel(self, call: Any) -> Any:
        """Return Triton's `run` counting its kernel as one launch, and nothing of what the interpreter does."""

        def run(kernel: Any, *args: Any, **kwargs: Any) -> Any:
            if not self._aside:
                self.launches[kernel.fn.__name__] += 1
            with self.aside():
                return call(kernel, *args, **kwargs)

        return run


class _Gsplat:
    """gsplat's functions, counted as the rasteriser's own."""

    def __init__(self, calls: Calls) -> None:
        self._calls, self.CameraModelType = calls, Kernels.CameraModelType

    def __getattr__(self, name: str) -> Any:
        def call(*args: Any) -> Any:
            with self._calls.aside():
                return getattr(Kernels, name)(*args)

        return call


def splat_step(steps: int = 2, **settings: Any) -> Calls:
    """Return what one step of a fit on a GPU calls, the first one left out.

    Args:
        steps: taken; the last is counted.
        settings: of the fit, by the names of its parameters.
    """
    from triton.runtime.interpreter import InterpretedFunction

    calls = Calls()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stack.enter_context(patch.object(InterpretedFunction, "run", calls.kernel(InterpretedFunction.run)))
        for module in ("render.cuda_rasterizer", "loss.photo_loss", "fit.optimizer", "fit.mcmc"):
            target = f"tasks.splatting.{module}.triton_part"
            stack.enter_context(patch(target, lambda name, device: PARTS.get(name)))
        stack.enter_context(patch("tasks.splatting.render.cuda_rasterizer.load_gsplat", lambda kernels: None))
        with patch("torch.cuda.is_available", lambda: True):
            rasterizer = CudaRasterizer()
        rasterizer._kernels = _Gsplat(calls)  # type: ignore[assignment]
        fit = make_fit(make_scene(folder, 4, size=(24, 20)), rasterizer=rasterizer, **settings)
        fit.device = torch.device("cuda")  # so that losses are not looked at, as on a GPU
        for step in range(steps):
            for index in range(len(fit.data.train)):  # cameras and images are put on the GPU once, before
                rasterizer._placed(fit.data.train[index].camera, torch.device("cpu"))
            if step < steps - 1:
                fit._attempt()
                continue
            with calls:
                fit._attempt()
    return calls


def train_steps(n_steps: int = 3, **options: Any) -> Far:
    """Return what steps of a training of ResNet-18 call between the ends of epochs, the first one left out.

    The loss is looked at in one of them, as it is every fifty steps.

    Args:
        n_steps: counted.
        options: of the training, by the names of its parameters.
    """
    params = TrainParams(model="resnet18", pretrained=False, batch_size=4, image_size=32, num_epochs=1, **options)
    torch.manual_seed(0)
    images = torch.randint(0, 255, (4 * params.accumulate * (n_steps + 3), 32, 32, 3), dtype=torch.uint8).numpy()
    batches = Batches(lambda i: images[i], [i % 2 for i in range(len(images))], 4, n_workers=1)
    with Far() as far:
        model = build_model("resnet18", 2, 32)
        average = build_model("resnet18", 2, 32) if params.ema_decay else None
        trainer = Trainer(model, 2, params, FAR, "fp32", ema_copy=average)
        looks: list[Any] = []

        def exchange(value: Any) -> float:
            looks.append(value)  # a GPU's event is asked, not waited for
            return 0.0

        trainer.step = 48
        with patch.object(trainer._late, "exchange", exchange):
            _count(trainer.run(batches, batches), far, n_steps)
    assert looks, "the loss is looked at in one of these steps"
    return far


def detector_steps(network: str = "fcos_small", n_steps: int = 3) -> Far:
    """Return what steps of a training of a detector call, with eight images each, the first one left out."""
    with tempfile.TemporaryDirectory() as name, Far() as far:
        folder = write_detector_dataset(Path(name) / "data", {"train": 8 * (n_steps + 2), "val": 2, "test": 2})
        small = {"image_size": 64, "window": 0, "batch_size": 8, "num_epochs": 1, "n_workers": 1}
        params = DetectorParams(network=network, device="cpu", precision="fp32", **small)
        session = DetectorSession(folder, Path(name) / "run", params, FAR, cache=Path(name), clock_ms=lambda: 0)
        _count(session.run(), far, n_steps)
    return far


def index_steps(n_steps: int = 3) -> Far:
    """Return what steps of a training of an index call, with eight views each, the first one left out."""
    with tempfile.TemporaryDirectory() as name, Far() as far:
        small = {"image_size": 32, "start_size": 0, "batch_size": 8, "num_epochs": 1, "n_workers": 1}
        params = IndexParams(device="cpu", precision="fp32", **small)
        folder = write_index_dataset(Path(name) / "data")
        session = IndexSession(folder, Path(name) / "run", params, FAR, cache=Path(name), clock_ms=lambda: 0)
        _count(session.run(), far, n_steps)
    return far


def _count(events: Iterator[Any], far: Far, n_steps: int) -> None:
    """Run a training until steps are counted; the first, in which things are sent once, is not."""
    steps = (event for event in events if isinstance(event, BatchDone))
    next(steps)
    far.clear()
    for _ in range(n_steps):
        next(steps)


def main() -> None:
    """Count, print a table, and the metrics as JSON."""
    splat = splat_step(opacity_reg=0.01, scale_reg=0.01)
    print("a step of a splat's fit, without gsplat's own kernels")
    for name, n in splat.launches.most_common():
        print(f"  {n:3d}  {name}")
    print(f"waits: {dict(splat.waits)}")
    figures: dict[str, float] = {"splat_launches": splat.launches.total(), "splat_waits": splat.waits.total()}
    trainings = {"train": train_steps(**ALL_OPTIONS), "index": index_steps(), "detector": detector_steps()}
    for kind, far in trainings.items():
        figures |= {f"{kind}_launches": far.launches.total() // 3, f"{kind}_waits": far.waits.total()}
        print(f"{kind}: {figures[f'{kind}_launches']} launches a step, waits in three: {dict(far.waits)}")
    figures["ratio"] = round(splat.launches.total() / MOST_LAUNCHES, 3)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
