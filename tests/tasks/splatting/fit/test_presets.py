"""Settings: what is given wins, what is empty comes from the preset of the device."""

import dataclasses

import pytest

from tasks.splatting.fit.presets import settings
from tasks.splatting.params import SplatParams


def test_a_gpu_fits_as_the_trainer_its_users_know():
    found = settings(SplatParams(preset="full"), "cuda")
    assert (found.max_steps, found.refine_start, found.refine_stop, found.refine_every) == (30_000, 500, 25_000, 100)
    assert (found.means_lr, found.scales_lr, found.opacities_lr, found.quats_lr) == (1.6e-4, 5e-3, 5e-2, 1e-3)
    assert (found.sh0_lr, found.shN_lr, found.noise_lr, found.init_scale) == (2.5e-3, 1.25e-4, 5e5, 0.1)
    assert (found.sh_degree, found.sh_degree_interval, found.growth) == (3, 1000, 1.05)


@pytest.mark.parametrize(("preset", "steps"), [("quick", 7_000), ("normal", 30_000), ("full", 30_000)])
def test_presets_of_a_gpu_have_the_published_numbers_of_steps(preset, steps):
    assert settings(SplatParams(preset=preset), "cuda").max_steps == steps


@pytest.mark.parametrize(
    ("preset", "expected"),
    [("quick", (1000, 357, 15_000)), ("normal", (3000, 482, 30_000)), ("full", (10_000, 640, 100_000))],
)
def test_presets_of_a_cpu_are_what_two_cores_can_do(preset, expected):
    found = settings(SplatParams(preset=preset), "cpu")
    assert (found.max_steps, found.max_side, found.cap_max) == expected


def test_what_is_given_wins_over_the_preset():
    given = {"max_steps": 50, "max_side": 64, "eval_every": 7, "cap_max": 123, "noise_lr": 0.0, "refine_start": 3}
    given |= {"refine_stop": 40, "sh_degree": 0, "sh_degree_interval": 2, "init_scale": 0.7, "means_lr": 1.0}
    given |= {"scales_lr": 2.0, "opacities_lr": 3.0, "quats_lr": 4.0, "sh0_lr": 5.0, "shN_lr": 6.0}
    found = dataclasses.asdict(settings(SplatParams(**given), "cpu"))
    assert {name: found[name] for name in given} == given


def test_windows_stretch_with_the_number_of_steps():
    whole, half = (settings(SplatParams(preset="full", max_steps=steps), "cuda") for steps in (30_000, 15_000))
    for name in ("eval_every", "refine_start", "refine_stop", "sh_degree_interval"):
        assert getattr(half, name) * 2 == getattr(whole, name), name


def test_the_classic_strategy_stops_refining_earlier_and_starts_larger():
    found = settings(SplatParams(preset="full", strategy="default"), "cuda")
    assert (found.refine_stop, found.init_scale) == (15_000, 1.0)


def test_a_run_of_one_step_has_windows_of_at_least_one():
    found = settings(SplatParams(max_steps=1), "cuda")
    assert (found.eval_every, found.sh_degree_interval) == (1, 1)


def test_other_devices_are_refused():
    with pytest.raises(ValueError, match="'mps', need cuda or cpu"):
        settings(SplatParams(), "mps")


def test_several_images_in_a_step_take_fewer_steps_and_larger_ones():
    one, four = (settings(SplatParams(preset="normal", batch_size=n), "cuda") for n in (1, 4))
    for name in ("max_steps", "eval_every", "refine_start", "refine_stop", "refine_every", "reset_every"):
        assert getattr(four, name) * 4 == getattr(one, name), name
    for name in ("means_lr", "scales_lr", "opacities_lr", "quats_lr", "sh0_lr", "shN_lr", "pose_opt_lr", "exposure_lr"):
        assert getattr(four, name) == pytest.approx(2 * getattr(one, name)), name
    assert settings(SplatParams(batch_size=4, max_steps=70), "cuda").max_steps == 70
