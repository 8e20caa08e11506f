"""The loop: held-out images get better, by every strategy and option; deadlines, memory and bad losses are met."""

import dataclasses
import math

import cv2
import numpy as np
import pytest
import torch

from tasks.base.errors import TrainingError
from tasks.base.progress import Note
from tasks.splatting.fit.fit_events import Done, MeasurementDone, StepsDone
from tasks.splatting.fit.loop import REPORT_EVERY, Fit
from tasks.splatting.render.cpu_rasterizer import CpuRasterizer
from tests.tasks.splatting.fit_scene import make_fit, make_scene

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    return make_scene(tmp_path_factory.mktemp("scene"))


def outcome(fit: Fit):
    return list(fit.run())[-1].result


def test_held_out_pictures_reach_30_db_from_below_20_in_200_steps(scene):
    fit = make_fit(scene)
    start = fit.measured().metrics
    result = outcome(fit)
    assert start.psnr < 20
    assert result.metrics.psnr > 30
    assert result.metrics.ssim > 0.95
    assert result.metrics.l1 < 0.03
    assert (result.ended, result.flagged) == ("finished", None)


@pytest.mark.parametrize(
    ("options", "least"),
    [
        ({"strategy": "default", "refine_start": 20, "refine_stop": 150, "refine_every": 40, "reset_every": 900}, 24),
        ({"random_bkgd": True}, 28),
        ({"antialiased": True}, 29),
        ({"pose_opt": True, "sh_degree": 0}, 29),
        ({"exposure_opt": True}, 28),
        ({"noise_lr": 0.0, "opacity_reg": 0.0, "scale_reg": 0.0, "ssim_lambda": 0.0}, 28),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_every_option_fits_as_well(scene, options, least):
    assert outcome(make_fit(scene, **options)).metrics.psnr > least


def test_pictures_of_changing_exposure_are_fitted_better_with_exposure_opt(tmp_path):
    gains = np.random.default_rng(0).uniform(0.5, 1.0, 12)
    scene = make_scene(tmp_path, gains=gains)
    plain = outcome(make_fit(scene))
    fit = make_fit(scene, exposure_opt=True, exposure_lr=1e-2)
    exposed = outcome(fit)
    assert exposed.metrics.psnr > plain.metrics.psnr + 5
    train = [i for i in range(12) if i % 4]
    found = fit.exposures.affine.detach()[:, range(3), range(3)].mean(1).numpy()
    assert np.corrcoef(found, gains[train])[0, 1] > 0.98


def test_wrong_cameras_are_corrected_with_pose_opt(scene):
    rng = np.random.default_rng(0)
    views = []
    for view in scene.views:
        moved = view.camera.world_to_camera.copy()
        moved[:3, 3] += rng.normal(0, 0.02, 3) * (view.camera.name not in ("000.png", "004.png", "008.png"))
        views.append(dataclasses.replace(view, camera=dataclasses.replace(view.camera, world_to_camera=moved)))
    wrong = dataclasses.replace(scene, views=tuple(views))
    plain = outcome(make_fit(wrong))
    refined = outcome(make_fit(wrong, pose_opt=True, pose_opt_lr=1e-3))
    assert refined.metrics.train_loss < 0.9 * plain.metrics.train_loss


def test_what_a_mask_hides_leaves_no_trace(scene, tmp_path):
    views = []
    for view in scene.views:
        pixels = cv2.imread(str(view.image))
        pixels[:, :24] = (0, 0, 255)  # a red pillar that goes with the camera
        mask = np.full((48, 64), 255, np.uint8)
        mask[:, :24] = 0
        cv2.imwrite(str(tmp_path / view.camera.name), pixels)
        cv2.imwrite(str(tmp_path / f"mask-{view.camera.name}"), mask)
        paths = {"image": tmp_path / view.camera.name, "mask": tmp_path / f"mask-{view.camera.name}"}
        views.append(dataclasses.replace(view, **paths))
    masked = dataclasses.replace(scene, views=tuple(views))
    bare = dataclasses.replace(masked, views=tuple(dataclasses.replace(view, mask=None) for view in views))
    fit, other = make_fit(masked), make_fit(bare)
    assert outcome(fit).metrics.psnr > 28
    outcome(other)

    def redness(one: Fit) -> float:
        shot = one.data.held_out[1]
        drawn = CpuRasterizer(num_threads=1)(one.gaussians, shot.camera, sh_degree=0).colors.detach()
        return float((drawn[:, 4:20, 0] - drawn[:, 4:20, 1:].mean(-1)).mean())

    assert redness(other) > redness(fit) + 0.3


def test_events_come_in_order_and_say_how_far_it_is(scene):
    events = list(make_fit(scene, max_steps=110, eval_every=40).run())
    steps = [event for event in events if isinstance(event, StepsDone)]
    assert [event.step for event in steps] == [25, 50, 75, 100, 110]
    assert all(event.max_steps == 110 and event.steps_per_s > 0 and event.n_gaussians >= 300 for event in steps)
    assert steps[-1].seconds_left == 0
    measured = [event for event in events if isinstance(event, MeasurementDone)]
    assert [event.metrics.step for event in measured] == [40, 80, 110]
    assert [preview.name for preview in measured[0].previews] == ["000.png", "004.png", "008.png"]
    assert measured[0].previews[0].pixels.shape == (48, 128, 3)
    assert measured[0].metrics.memory_bytes > 2**20
    assert isinstance(events[-1], Done)
    assert events[-1].result.metrics == measured[-1].metrics


def test_losses_told_are_the_means_of_the_steps_between(scene):
    fit = make_fit(scene, max_steps=75, eval_every=50)
    events = list(fit.run())
    told = [event.loss for event in events if isinstance(event, StepsDone)]
    measured = [event.metrics.train_loss for event in events if isinstance(event, MeasurementDone)]
    assert measured[0] == pytest.approx((told[0] + told[1]) / 2)
    assert measured[1] == pytest.approx(told[2])
    assert fit.measured().metrics.train_loss == measured[1]  # asked again, the same


def test_the_degree_of_colour_rises_step_by_step(scene):
    fit = make_fit(scene, max_steps=60, eval_every=60, sh_degree=2, sh_degree_interval=10)
    used = []

    def spy(gaussians, camera, **options):
        used.append(options["sh_degree"])
        return CpuRasterizer(num_threads=1)(gaussians, camera, **options)

    fit._rasterizer = spy
    list(fit.run())
    assert used[:60] == [0] * 10 + [1] * 10 + [2] * 40
    assert set(used[60:]) == {2}


def test_without_held_out_pictures_nothing_is_claimed(scene):
    result = outcome(make_fit(scene, test_every=0, max_steps=30))
    assert (result.metrics.psnr, result.metrics.ssim, result.metrics.l1, result.flagged) == (None, None, None, None)


def test_a_poor_result_is_flagged_with_the_figure(scene):
    flagged = outcome(make_fit(scene, max_steps=5, min_psnr=45)).flagged
    assert "dB, below min_psnr 45" in flagged


def test_at_the_deadline_the_fit_stops_measures_and_says_so(scene):
    now = [0.0]

    def clock() -> float:
        now[0] += 0.01
        return now[0]

    events = list(make_fit(scene, deadline=1.0, clock=clock).run())
    result = events[-1].result
    assert result.ended == "deadline"
    assert 5 < result.metrics.step < 100
    assert isinstance(events[-2], MeasurementDone)
    assert result.metrics.psnr > 15


def test_a_deadline_that_is_over_still_gives_a_result(scene):
    events = list(make_fit(scene, deadline=-1.0, clock=lambda: 0.0).run())
    assert [type(event) for event in events] == [MeasurementDone, Done]
    assert math.isnan(events[0].metrics.train_loss)


class TooSmall:
    """A rasteriser on a device with room for so many Gaussians."""

    def __init__(self, room: int, error: type[BaseException] = MemoryError) -> None:
        self._room, self._error, self._draw = room, error, CpuRasterizer(num_threads=1)

    def __call__(self, gaussians, camera, **options):
        if len(gaussians) > self._room:
            raise self._error("CUDA out of memory. Tried to allocate 2.00 GiB")
        return self._draw(gaussians, camera, **options)


@pytest.mark.parametrize("strategy", ["mcmc", "default"])
@pytest.mark.parametrize("error", [MemoryError, torch.cuda.OutOfMemoryError])
def test_out_of_memory_halves_the_gaussians_and_goes_on(scene, strategy, error):
    many = dataclasses.replace(scene, points=np.repeat(scene.points, 15, 0), colors=np.repeat(scene.colors, 15, 0))
    many.points[:] += np.random.default_rng(0).normal(0, 0.02, many.points.shape)
    options = {"cap_max": 10_000, "strategy": strategy, "refine_start": 2, "refine_every": 10, "max_steps": 50}
    fit = make_fit(many, rasterizer=TooSmall(1200, error), exposure_opt=True, pose_opt=True, **options)
    events = list(fit.run())
    notes = [event.text for event in events if isinstance(event, Note)]
    assert notes[0].startswith("out of memory at 4500 Gaussians: goes on with the 2250 most opaque")
    assert len(notes) == 2
    assert events[-1].result.metrics.step == 50
    assert len(fit.gaussians) <= 1125
    assert fit.strategy.cap_max == 1125


def test_out_of_memory_with_few_gaussians_is_an_error_that_says_what_to_do(scene):
    with pytest.raises(TrainingError, match="out of memory on cpu at step 1 with 300 Gaussians.*smaller max_side"):
        list(make_fit(scene, rasterizer=TooSmall(10)).run())


def test_a_loss_that_is_not_finite_names_step_and_picture(scene):
    fit = make_fit(scene)
    draw, calls = CpuRasterizer(num_threads=1), []

    def poisoned(gaussians, camera, **options):
        drawn = draw(gaussians, camera, **options)
        calls.append(camera.name)
        return dataclasses.replace(drawn, colors=drawn.colors * (math.nan if len(calls) == 8 else 1.0))

    fit._rasterizer = poisoned
    with pytest.raises(TrainingError, match="the loss is nan at step 8 of 200, on image ...\\.png") as caught:
        list(fit.run())
    assert calls[-1] in str(caught.value)
    assert all(tensor.isfinite().all() for tensor in fit.gaussians.tensors().values())


def test_gaussians_that_cannot_be_drawn_are_named_with_step_and_picture(scene):
    fit = make_fit(scene)
    with torch.no_grad():
        fit.gaussians.means[7] = math.nan
    with pytest.raises(TrainingError, match="number 7.*at step 1 of 200, on image"):
        list(fit.run())


@pytest.mark.parametrize("strategy", ["mcmc", "default"])
def test_a_state_put_into_another_fit_goes_on_with_the_same_bits(scene, strategy):
    options = {"max_steps": 120, "eval_every": 50, "strategy": strategy, "refine_start": 5, "refine_every": 20}
    options |= {"exposure_opt": True, "pose_opt": True, "random_bkgd": True, "refine_stop": 110, "reset_every": 45}
    whole, first, second = (make_fit(scene, **options) for _ in range(3))
    outcome(whole)
    for event in first.run():
        if isinstance(event, StepsDone) and event.step == 2 * REPORT_EVERY:
            break
    second.load_state_dict(first.state_dict())
    events = list(second.run())
    assert [event.metrics.step for event in events if isinstance(event, MeasurementDone)] == [50, 100, 120]
    for name, tensor in whole.gaussians.tensors().items():
        assert torch.equal(tensor, second.gaussians.tensors()[name]), name
    assert torch.equal(whole.exposures.affine, second.exposures.affine)
    assert torch.equal(whole.poses.values, second.poses.values)


def test_more_threads_give_the_same_bits(scene):
    fits = []
    for threads in (1, 2):
        fits.append(make_fit(scene, max_steps=30, rasterizer=CpuRasterizer(num_threads=threads)))
        fits[-1]._num_threads = threads
        outcome(fits[-1])
    for name, tensor in fits[0].gaussians.tensors().items():
        assert torch.equal(tensor, fits[1].gaussians.tensors()[name]), name
