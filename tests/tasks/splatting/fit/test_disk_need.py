"""The estimate of a fit's checkpoint is what it takes."""

import pytest
import torch

from tasks.splatting.fit.disk_need import fit_need, splat_need
from tasks.splatting.fit.presets import settings
from tasks.splatting.params import SplatParams


def test_the_checkpoint_is_there_twice_with_two_moments(tmp_path):
    n, degree = 2000, 2
    values = torch.zeros(n, 3 + 3 + 4 + 1 + 3 * (degree + 1) ** 2)
    torch.save([values, values.clone(), values.clone()], tmp_path / "splat.ckpt")
    need = fit_need(settings(SplatParams(device="cpu", cap_max=n, sh_degree=degree), "cpu"))
    assert need.bytes == pytest.approx(2 * (tmp_path / "splat.ckpt").stat().st_size, rel=0.02)
    assert need.what == "checkpoints of up to 2,000 Gaussians"


@pytest.mark.parametrize(("device", "n"), [("cuda", "1,000,000"), ("boxb/cuda:1", "1,000,000"), ("boxb/cpu", "30,000")])
def test_the_preset_of_the_device_counts(device, n):
    assert splat_need(SplatParams(device=device)).what == f"checkpoints of up to {n} Gaussians"
