"""The benchmark of models over signal-to-noise ratios."""

from pathlib import Path

from prefect import flow

from gpu_pools.slots.local_slot import on_device
from tasks.inference.snr import steps as steps
from tasks.inference.snr.params import SnrParams, SnrTrackParams
from tasks.signals.params import MixParams, SpectrogramParams


@flow(name="snr_benchmark", flow_run_name=steps.name_benchmark)
def snr_benchmark(
    data: Path,
    benchmark: SnrParams = SnrParams(),
    mix: MixParams | None = None,
    spectrogram: SpectrogramParams = SpectrogramParams(),
    track: SnrTrackParams = SnrTrackParams(),
) -> str | None:
    """Grade models at every signal-to-noise ratio and draw the curves.

    Args:
        data: <snr>/<class>/<image> or <snr>/<colormap>/<class>/<image>; with `mix`, clean recordings of raw
            I/Q as <class>/<recording>.
        benchmark: which models answer, on what device.
        mix: how clean recordings are mixed with noise; empty: `data` has images.
        spectrogram: how mixed recordings become images.
        track: under which names the run is found in MLflow.

    Returns:
        The id of the MLflow run; None: MLflow was away all along.
    """
    models = steps.find_models(benchmark)
    images = data if mix is None else steps.mix_noise(data, mix, spectrogram)
    with on_device(benchmark.device, "inference"):
        return steps.grade_models(images, models, benchmark, track, mix is not None)
