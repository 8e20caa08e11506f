"""Forecasts of a GPU's memory, against what real networks keep for their backward pass."""

import pytest
import torch
import torchvision

from gpu_pools.sharing.memory_model import MemoryNeed, Peak, forecast, memory_text
from gpu_pools.sharing.memory_settings import MemorySetting

MIB = 2**20


def setting(size: float | None, rate: str = "bf16", model: str = "resnet50") -> MemorySetting:
    return MemorySetting(model, rate, size)


def peaks(*known: tuple[float | None, int], rate: str = "bf16", model: str = "resnet50") -> list[Peak]:
    return [Peak(f"{rate}-{n}", setting(size, rate, model), mib) for n, (size, mib) in enumerate(known)]


def kept_mib(model: str, batch: int, pixels: int) -> int:
    """Return what a training keeps at most, MiB: weights, gradients, Adam's two moments, all for the backward pass.

    On torch's device without memory, whose tensors have sizes only.
    """
    seen: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        seen[id(storage)] = storage.nbytes()
        alive.append(storage)
        return tensor

    alive: list[torch.UntypedStorage] = []
    with torch.device("meta"):
        network = getattr(torchvision.models, model)(num_classes=10)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            network(torch.empty(batch, 3, pixels, pixels)).sum()
    weights = sum(weight.nbytes for weight in network.parameters())
    return round((4 * weights + sum(seen.values())) / MIB)


@pytest.mark.parametrize("model", ["resnet50", "vit_b_16", "mobilenet_v3_large"])
def test_other_batches_of_real_networks_are_foretold_within_a_hundredth(model):
    known = [Peak(str(b), setting(b * 224.0**2, model=model), kept_mib(model, b, 224)) for b in (8, 32, 64)]
    for batch, how in ((16, "interpolated"), (256, "extrapolated")):
        found = forecast(setting(batch * 224.0**2, model=model), known)
        assert found is not None
        assert found.mib == pytest.approx(kept_mib(model, batch, 224), rel=0.01)
        assert found.source == f"{how} from 3 runs"


def test_convolutions_grow_with_pixels_as_with_the_batch():
    known = [
        Peak(str(side), setting(batch * float(side) ** 2), kept_mib("resnet50", batch, side))
        for batch, side in ((32, 128), (16, 224), (64, 160))
    ]
    found = forecast(setting(24 * 192.0**2), known)
    assert found is not None
    assert found.mib == pytest.approx(kept_mib("resnet50", 24, 192), rel=0.02)


def test_what_was_measured_is_the_most_that_was():
    known = peaks((64, 6000), (64, 6300), (128, 11_000))
    assert forecast(setting(64), known) == MemoryNeed(6300, "measured in 2 runs")


def test_where_all_runs_had_one_size_the_most_that_others_can_take_is_told():
    known = peaks((64, 6000))
    assert forecast(setting(128), known) == MemoryNeed(12_000, "scaled from 1 run")
    assert forecast(setting(8), known) == MemoryNeed(6000, "scaled from 1 run")


def test_the_fixed_part_is_the_models_and_what_grows_is_the_precisions():
    known = [*peaks((10, 1500), (100, 6000)), *peaks((50, 6000), rate="fp32")]  # 1000 + 50 x, 1000 + 100 x
    found = forecast(setting(20, "fp32"), known)
    assert found is not None
    assert found == MemoryNeed(3000, "extrapolated from 3 runs")
    assert forecast(setting(20, "fp16"), known) is None


def test_no_part_is_negative_however_runs_scatter():
    falling = forecast(setting(20), peaks((10, 6000), (100, 2000)))
    steep = forecast(setting(1), peaks((10, 100), (100, 6000)))
    assert falling is not None
    assert steep is not None
    assert 2000 <= falling.mib <= 6000
    assert 0 <= steep.mib <= 100


def test_of_another_model_or_an_unknown_size_nothing_is_told():
    assert forecast(setting(64), []) is None
    assert forecast(setting(64), peaks((64, 6000), model="vit_b_16")) is None
    assert forecast(setting(None), peaks((64, 6000))) is None
    assert forecast(setting(None), peaks((None, 6000))) == MemoryNeed(6000, "measured in 1 run")


def test_memory_reads_as_on_a_card():
    assert [memory_text(mib) for mib in (8300, 24_576, 500)] == ["8.1 GB", "24 GB", "0.5 GB"]
    assert MemoryNeed(14_400, "measured in 3 runs").text() == "about 14 GB (measured in 3 runs)"
