"""Seconds from raw I/Q in memory to an image: ours against scipy.signal.stft and matplotlib, in the same run.

The peer is what RFUAV's code does with a frame (graphic/RawDataProcessor.py): scipy's STFT, 10*log10, imshow over a
whole figure, saved as JPEG at 1800x1200. Both sides get the same frame, in turns, each on one thread; the first round
is thrown away. `db_error` is the largest difference of their dB where the peer's power is above 1e-12 of a full-scale
tone. The last line is JSON; `ratio` is the median of the peer's seconds over ours, round by round; `ratio_cpu` the
same for processor seconds, which on a machine that others use, too, are the steadier figure.

    python benchmarks/spectrogram.py [--rounds 5] [--frame-s 0.1] [--n-fft 1024]
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from io import BytesIO

import cv2
import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from numpy.typing import NDArray
from scipy.signal import stft, windows

from tasks.signals.params import SpectrogramParams
from tasks.signals.spectrogram import render, spectrogram_db
from tasks.signals.synthesis import make_recording

RATE_HZ = 100e6
WIDTH, HEIGHT = 1800, 1200


def peer_db(iq: NDArray[np.complex64], n_fft: int) -> NDArray[np.floating]:
    """Return the dB (n_fft, columns) by scipy, the lowest frequency first."""
    _, _, values = stft(iq, RATE_HZ, windows.hamming(n_fft), nperseg=n_fft, return_onesided=False)
    return 20 * np.log10(np.maximum(np.abs(np.fft.fftshift(values, axes=0)), 1e-10))


def peer_picture(iq: NDArray[np.complex64], n_fft: int) -> bytes:
    """Return the JPEG by scipy and matplotlib."""
    figure = plt.figure(figsize=(WIDTH / 300, HEIGHT / 300))
    plt.imshow(peer_db(iq, n_fft), aspect="auto", origin="lower", cmap="jet")
    plt.axis("off")
    plt.subplots_adjust(left=0, right=1, bottom=0, top=1)
    file = BytesIO()
    plt.savefig(file, format="jpg", dpi=300)
    plt.close(figure)
    return file.getvalue()


def our_picture(iq: NDArray[np.complex64], params: SpectrogramParams) -> bytes:
    """Return the JPEG as the flow `spectrograms` writes it."""
    _, data = cv2.imencode(".jpg", render(spectrogram_db(iq, params), params), [cv2.IMWRITE_JPEG_QUALITY, 95])
    return data.tobytes()


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Return seconds on the clock, and of processors."""
    start, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - start, time.process_time() - cpu


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--frame-s", type=float, default=0.1)
    parser.add_argument("--n-fft", type=int, default=1024)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    fast = SpectrogramParams(frame_s=options.frame_s, n_fft=options.n_fft)
    iq = make_recording("fhss_narrow", 5, 0, RATE_HZ, options.frame_s)
    expected = peer_db(iq, options.n_fft)[::-1]
    audible = expected > -120
    error = float(np.abs(spectrogram_db(iq, fast) - expected)[audible].max())
    del expected
    sides: dict[str, Callable[[], object]] = {
        "scipy + matplotlib": lambda: peer_picture(iq, options.n_fft),
        "fast": lambda: our_picture(iq, fast),
        "matplotlib": lambda: our_picture(iq, fast.model_copy(update={"drawing": "matplotlib"})),
    }
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    for number in range(options.rounds + 1):
        for name, work in sides.items():
            took = timed(work)
            if number:
                seconds[name].append(took)
    show(options, seconds)
    peer, ours, drawn = seconds.values()
    result = {
        "ratio": ratio(peer, ours, 0),
        "ratio_cpu": ratio(peer, ours, 1),
        "ratio_cpu_matplotlib_drawing": ratio(peer, drawn, 1),
        "seconds_peer": round(statistics.median(wall for wall, _ in peer), 3),
        "seconds_ours": round(statistics.median(wall for wall, _ in ours), 3),
        "db_error": round(error, 5),
    }
    print(json.dumps(result))


def show(options: argparse.Namespace, seconds: dict[str, list[tuple[float, float]]]) -> None:
    """Print the table."""
    print(
        f"a frame of {options.frame_s} s at 100 MS/s, STFT {options.n_fft}, {WIDTH}x{HEIGHT} JPEG, "
        f"{options.rounds} rounds, one thread"
    )
    print("s per image          median   lowest  highest   processors, median")
    for name, pairs in seconds.items():
        wall, cpu = zip(*pairs, strict=True)
        middle = statistics.median(wall)
        print(f"{name:<20}{middle:>9.2f}{min(wall):>9.2f}{max(wall):>9.2f}{statistics.median(cpu):>21.2f}")


def ratio(peer: list[tuple[float, float]], ours: list[tuple[float, float]], which: int) -> float:
    """Return the median of the ratios of each round; neighbours in time share what else the machine did."""
    return round(statistics.median(p[which] / o[which] for p, o in zip(peer, ours, strict=True)), 2)


if __name__ == "__main__":
    main()
