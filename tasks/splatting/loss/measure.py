"""Measures a splat on images that it was not fitted to."""

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tasks.splatting.fit.exposure import exposed, solved
from tasks.splatting.fit.fit_events import Preview
from tasks.splatting.fit.training_images import TrainingImage, TrainingImages
from tasks.splatting.loss.photo_loss import photo_loss, psnr
from tasks.splatting.render.gaussians import Gaussians
from tasks.splatting.render.rasterizer import Rasterizer

MAX_PREVIEWS = 4


@dataclass(frozen=True, slots=True)
class Score:
    """How like its image one view was drawn."""

    psnr: float  # dB
    ssim: float
    l1: float


def score(drawn: Tensor, shot: TrainingImage) -> Score:
    """Return how like the image it is, over the pixels that count.

    Args:
        drawn: (H, W, 3).
        shot: of the same size.
    """
    drawn, taken = drawn.clamp(0, 1), shot.truth
    error = drawn - taken
    counted, share = error, 1.0
    if shot.mask is not None and shot.mask.any():
        counted, share = error[shot.mask], float(shot.mask.float().mean())
    # Windows over pixels that do not count say 1; without them the mean is over about those that do.
    return Score(
        psnr(float(counted.square().mean())),
        1 - float(photo_loss(drawn, taken, shot.mask, 1.0)) / share,
        float(counted.abs().mean()),
    )


def score_exposed(drawn: Tensor, shot: TrainingImage) -> tuple[Score, Tensor]:
    """Return the score of the right half, with the exposure that fits the left half best, and the exposed image.

    Nothing says how an image was exposed that was not fitted to; half of it does. Source: the protocol of NeRF in the
    Wild (arXiv:2008.02268) sec. 5, and of the 3DGS authors' `--train_test_exp`.
    """
    middle = shot.camera.width // 2
    mask = shot.mask
    affine = solved(drawn[:, :middle], shot.truth[:, :middle], None if mask is None else mask[:, :middle])
    right = TrainingImage(shot.camera, shot.rgb[:, middle:], None if mask is None else mask[:, middle:])
    image = exposed(drawn, affine)
    return score(image[:, middle:], right), image


@torch.no_grad()
def measure(
    gaussians: Gaussians,
    rasterizer: Rasterizer,
    shots: TrainingImages | Sequence[TrainingImage],
    *,
    sh_degree: int,
    antialiased: bool,
    expose: bool,
    numbers: Iterable[int] | None = None,
) -> tuple[list[Score], list[Preview]]:
    """Return the score of every image, and the first ones to look at.

    Args:
        gaussians: on the rasteriser's device.
        rasterizer: to draw with.
        shots: images.
        sh_degree: the degree in use.
        antialiased: as fitted.
        expose: whether exposures were fitted, so that these images' are solved for.
        numbers: of the images that are measured; None: all.
    """
    scores: list[Score] = []
    previews: list[Preview] = []
    for index in range(len(shots)) if numbers is None else numbers:
        shot = shots[index]
        drawn = rasterizer(gaussians, shot.camera, sh_degree=sh_degree, antialiased=antialiased).colors
        if expose:
            one, drawn = score_exposed(drawn, shot)
        else:
            one = score(drawn, shot)
        scores.append(one)
        if len(previews) < MAX_PREVIEWS:
            previews.append(side_by_side(drawn, shot))
    return scores, previews


def side_by_side(drawn: Tensor, shot: TrainingImage) -> Preview:
    """Return what was drawn, left, and what was taken, right."""
    pixels = (drawn.clamp(0, 1) * 255).round().to(torch.uint8)
    both = torch.cat([pixels, shot.rgb], dim=1).cpu().numpy()
    return Preview(shot.camera.name, np.ascontiguousarray(both))


def mean_score(scores: Sequence[Score]) -> Score | None:
    """Return the mean of each metric, or None where nothing was scored."""
    if not scores:
        return None
    values = torch.tensor([dataclasses.astuple(one) for one in scores], dtype=torch.float64)
    return Score(*values.mean(0).tolist())
