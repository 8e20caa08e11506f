"""Makes images of the demo's five kinds of signals at every SNR from -20 to 20 dB, for `yard run snr_benchmark`.

The recordings have seeds that no training of `make demo` uses, and are cut and drawn as those were. The same
recording is made at every SNR: signal, hops, fading and noise are alike, only their ratio differs.

    python benchmarks/snr_curve.py FOLDER [--recordings 40]
    yard run snr_benchmark --data FOLDER --set benchmark.weights=TRAINING/best.pt --set benchmark.device=cpu
"""

import argparse
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import product
from pathlib import Path

from tasks.base.workspace import staged
from tasks.images.files import n_cores
from tasks.signals.demo_data import FRAME_S, SAMPLE_RATE_HZ
from tasks.signals.params import SpectrogramParams
from tasks.signals.spectrogram import write_spectrograms
from tasks.signals.synthesis import KINDS, Kind, make_recording

SNRS_DB = range(-20, 21, 2)
FIRST_SEED = 10_000  # the demo's training takes 0 to 139
DRAWN = SpectrogramParams(
    sample_rate_hz=SAMPLE_RATE_HZ,
    frame_s=FRAME_S,
    n_fft=128,
    overlap=0.75,
    percentiles=(1.0, 99.5),
    width=128,
    height=128,
)


def make(job: tuple[int, Kind, int], target: Path) -> None:
    """Write the image of one recording."""
    snr_db, kind, number = job
    iq = make_recording(kind, snr_db, FIRST_SEED + number, SAMPLE_RATE_HZ, FRAME_S)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{kind}_rec{number:03d}_snr{snr_db:+03d}.iq"
        path.write_bytes(iq.astype("<c8").tobytes())
        list(write_spectrograms(path, target / f"{snr_db}dB" / kind, DRAWN))


def make_all(target: Path, n_recordings: int) -> Iterator[None]:
    """Write FOLDER/<snr>dB/<kind>/*.jpg; yield per image."""
    jobs = list(product(SNRS_DB, KINDS, range(n_recordings)))
    with staged(target) as folder, ThreadPoolExecutor(n_cores()) as pool:
        yield from pool.map(partial(make, target=folder), jobs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--recordings", type=int, default=40, help="of each kind, at each SNR")
    options = parser.parse_args()
    print(f"{sum(1 for _ in make_all(options.folder, options.recordings))} images in {options.folder}")


if __name__ == "__main__":
    main()
