"""Estimates from the parameters how much room rendered images take on the disk."""

from pathlib import Path

from gpu_pools.placement.disk import Need
from tasks.recognition.params import RenderParams

_BYTES_PER_PIXEL, _BYTES_PER_FILE = 0.32, 2048
"""Of the JPEG files, mean over their qualities at sides of 96 and 320; half a block of the disk is lost for each."""


def rendering_need(n_parts: int, params: RenderParams) -> Need:
    """Return the bytes that the images of a rendering will take.

    Args:
        n_parts: meshes, an image of each for each view.
        params: how many images, and of what size.
    """
    n_distractors = params.n_distractors if params.distractors is None else _n_files(params.distractors)
    n_views = n_parts * (params.train_views + params.val_views + params.test_views)
    n_views += n_distractors * params.distractor_views
    n_scenes = params.train_scenes + params.val_scenes + params.test_scenes
    pixels = n_views * params.view_size**2 + n_scenes * params.scene_size**2
    n_bytes = int(_BYTES_PER_PIXEL * pixels) + _BYTES_PER_FILE * (n_views + n_scenes)
    return Need(n_bytes, f"{n_views:,} views and {n_scenes:,} scenes")


def _n_files(folder: Path) -> int:
    return sum(path.is_file() for path in folder.iterdir()) if folder.is_dir() else 0
