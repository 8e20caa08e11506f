"""Preparation steps that people also start alone; each reads a folder and fills another."""

from pathlib import Path

from prefect import flow

from tasks.classification import preparation_steps as steps
from tasks.classification.params import AugmentParams, SplitParams
from tasks.signals.params import CropParams, SpectrogramParams


@flow(name="split_images", flow_run_name=steps.named("split"))
def split_images(data: Path, split: SplitParams = SplitParams(), output: Path | None = None) -> Path:
    """Split a folder of classes into train, val and test.

    Args:
        data: a folder of class folders, or of train/, val/ and test/.
        split: how the parts are cut.
        output: a folder that is missing or empty; without it the run's own.

    Returns:
        The folder with train/, val/ and test/.
    """
    return steps.split(data, split, output)


@flow(name="augment_images", flow_run_name=steps.named("augment"))
def augment_images(data: Path, augment: AugmentParams = AugmentParams(), output: Path | None = None) -> Path:
    """Add altered copies to images; the originals stay.

    Args:
        data: a folder of train/, val/ and test/, of which augment.parts get copies, or of class folders, all of
            which do.
        augment: which copies are made.
        output: a folder that is missing or empty; without it the run's own.

    Returns:
        The folder of originals and copies.
    """
    return steps.augment(data, augment, output)


@flow(name="crop_images", flow_run_name=steps.named("crop"))
def crop_images(data: Path, crop: CropParams, output: Path | None = None) -> Path:
    """Cut the same box out of one image or of every image of a tree.

    Args:
        data: an image, or a folder whose structure is kept.
        crop: the box.
        output: a folder that is missing or empty; without it the run's own.

    Returns:
        The folder of the cut images.
    """
    return steps.crop(data, crop, output)


@flow(name="spectrograms", flow_run_name=steps.named("spectrograms"))
def spectrograms(data: Path, spectrogram: SpectrogramParams = SpectrogramParams(), output: Path | None = None) -> Path:
    """Turn raw radio recordings into images that a classifier can be trained on.

    Args:
        data: a recording of raw I/Q, or a folder of them whose structure is kept.
        spectrogram: how a recording is cut into frames and how a frame becomes an image.
        output: a folder that is missing or empty; without it the run's own.

    Returns:
        The folder of the images.
    """
    return steps.draw_spectrograms(data, spectrogram, output)
