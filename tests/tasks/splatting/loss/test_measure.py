"""Scores of held-out images: over pixels that count, with exposure solved on the half that is not scored."""

import numpy as np
import pytest
import torch

from tasks.splatting.fit.training_images import TrainingImage, TrainingImages
from tasks.splatting.loss.measure import MAX_PREVIEWS, Score, mean_score, measure, score, score_exposed
from tasks.splatting.render.cpu_rasterizer import CpuRasterizer
from tests.tasks.splatting.fit_scene import arc, make_scene, true_gaussians


def shot(mask: torch.Tensor | None = None) -> TrainingImage:
    rgb = torch.randint(0, 200, (48, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return TrainingImage(arc(1)[0], rgb, mask)


def test_a_difference_of_a_tenth_is_twenty_decibels():
    found = score(shot().truth + 0.1, shot())
    assert found.psnr == pytest.approx(20, abs=1e-3)
    assert found.l1 == pytest.approx(0.1, abs=1e-5)


def test_equal_pictures_have_the_highest_scores():
    found = score(shot().truth, shot())
    assert (found.psnr, found.l1) == (100.0, 0.0)
    assert found.ssim == pytest.approx(1)


def test_colours_are_cut_off_where_a_picture_cannot_show_them():
    bright = TrainingImage(arc(1)[0], torch.full((48, 64, 3), 255, dtype=torch.uint8), None)
    assert score(torch.full((48, 64, 3), 3.0), bright).l1 == 0


def test_pixels_that_do_not_count_have_no_say():
    mask = torch.ones(48, 64, dtype=torch.bool)
    mask[:, :32] = False
    drawn = shot().truth + 0.1
    drawn[:, :32] = 0.0
    found = score(drawn, shot(mask))
    assert found.psnr == pytest.approx(20, abs=1e-3)
    whole = score(shot().truth + 0.1, shot()).ssim
    assert found.ssim == pytest.approx(whole, abs=0.05)


def test_a_picture_of_another_exposure_is_as_good_once_that_is_solved():
    taken = shot()
    drawn = (taken.truth - 0.1) / 0.8
    assert score(drawn, taken).psnr < 30
    found, picture = score_exposed(drawn, taken)
    assert found.psnr > 50
    torch.testing.assert_close(picture, taken.truth, atol=1e-2, rtol=0)


def test_the_half_that_exposure_is_solved_on_is_not_scored():
    taken = shot()
    drawn = taken.truth.clone()
    drawn[:, 32:] += 0.1  # an error that no exposure of the left half explains
    assert score_exposed(drawn, taken)[0].psnr == pytest.approx(20, abs=0.1)


def test_the_true_gaussians_are_drawn_as_their_pictures(tmp_path):
    scene = make_scene(tmp_path, 6)
    shots = TrainingImages(scene.views, 64, torch.device("cpu"))
    scores, previews = measure(
        true_gaussians(), CpuRasterizer(num_threads=1), shots, sh_degree=0, antialiased=False, expose=False
    )
    assert min(one.psnr for one in scores) > 50  # rounding to 8 bits
    assert [one.name for one in previews] == [f"{i:03d}.png" for i in range(MAX_PREVIEWS)]
    pixels = previews[0].pixels
    assert pixels.shape == (48, 128, 3)
    assert pixels.dtype == np.uint8
    assert np.abs(pixels[:, :64].astype(int) - pixels[:, 64:]).max() <= 1


def test_the_mean_is_by_figure():
    assert mean_score([Score(20, 0.5, 0.1), Score(30, 0.7, 0.3)]) == Score(25, pytest.approx(0.6), pytest.approx(0.2))
    assert mean_score([]) is None
