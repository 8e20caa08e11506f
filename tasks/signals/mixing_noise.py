"""Mixes noise into clean recordings at given signal-to-noise ratios, by a documented recipe.

The recipe, for one frame x of n samples at rate f (docs/signals.md has it in words):

1. P: mean |x|^2 over the samples where the signal is being sent (`active_samples`), or over all.
2. B: f, the bandwidth given, or the narrowest one around the middle of the power that holds 99 % of it.
3. w: n samples of noise of mean power 1, from a generator that depends on seed, recording and frame alone.
4. y = x + w * sqrt(P / 10^(snr/10) * f / B): the part of the noise that falls into B is `snr` dB below P.

What noise the recording had before stays in it, so no frame gets better than it was recorded.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from tasks.base.errors import DatasetError
from tasks.signals.iq_layout import read_samples
from tasks.signals.params import MixParams
from tasks.signals.spectrogram import Recording

BLOCK = 64  # samples whose mean power decides whether a signal is being sent there
ACTIVE_BELOW_PEAK_DB = 10.0
OCCUPIED_SHARE = 0.99  # ITU-R SM.328: half a percent of the power on either side
_PSD_POINTS = 1024

Samples = NDArray[np.complex64]


@dataclass(frozen=True, slots=True)
class SignalPower:
    """What the noise of a frame is scaled by."""

    power: float  # mean |x|^2 of the signal
    active_share: float  # of the samples that power is over, in (0, 1]
    bandwidth_hz: float  # in which the noise is counted


def measure(iq: Samples, sample_rate_hz: float, params: MixParams) -> SignalPower:
    """Return power and bandwidth of a frame.

    Args:
        iq: (n,) n >= BLOCK.

    Raises:
        DatasetError: there is nothing but zeros, or the bandwidth asked for is wider than the recording.
    """
    active = active_samples(iq) if params.power_over == "active" else np.ones(len(iq), dtype=np.bool_)
    power = float(np.mean(np.abs(iq[active]) ** 2, dtype=np.float64))
    if power == 0:
        raise DatasetError("found nothing but zeros, need a signal to mix with noise")
    if params.bandwidth_hz is not None:
        if params.bandwidth_hz > sample_rate_hz:
            raise DatasetError(
                f"found {sample_rate_hz:g} samples/s, need bandwidth_hz {params.bandwidth_hz:g} at least"
            )
        bandwidth = params.bandwidth_hz
    else:
        bandwidth = sample_rate_hz if params.bandwidth == "full" else occupied_bandwidth(iq, sample_rate_hz)
    return SignalPower(power, float(np.mean(active)), bandwidth)


def active_samples(iq: Samples) -> NDArray[np.bool_]:
    """Return (n,) where the signal is being sent.

    That is in blocks of 64 samples with a mean power of at least a tenth (10 dB below) of the 99th percentile of
    all blocks; a last block that is not whole counts as the one before it.
    """
    n_blocks = max(1, len(iq) // BLOCK)
    blocks = iq[: n_blocks * BLOCK].reshape(n_blocks, -1)
    power = np.mean(np.abs(blocks) ** 2, axis=1, dtype=np.float64)  # (n_blocks,)
    peak = np.percentile(power, 99, method="higher")
    on = np.asarray(power >= peak * 10 ** (-ACTIVE_BELOW_PEAK_DB / 10))
    whole = np.repeat(on, blocks.shape[1])
    return np.concatenate([whole, np.full(len(iq) - len(whole), on[-1])])


def occupied_bandwidth(iq: Samples, sample_rate_hz: float) -> float:
    """Return the Hz between the frequencies below and above which half a percent of the power lies.

    From the mean of the power over Hann windows of 1024 points that overlap by half. A signal that hops occupies
    all between its outermost channels. Source: ITU-R SM.328 (occupied bandwidth).
    """
    n_fft = min(_PSD_POINTS, len(iq))
    values = torch.stft(
        torch.from_numpy(np.ascontiguousarray(iq)),
        n_fft,
        hop_length=max(1, n_fft // 2),
        window=torch.hann_window(n_fft),
        center=False,
        onesided=False,
        return_complex=True,
    )  # (n_fft, columns)
    density = torch.fft.fftshift(values.abs().square().double().mean(dim=1)).numpy()
    below = np.cumsum(density) / density.sum()
    tail = (1 - OCCUPIED_SHARE) / 2
    low, high = np.searchsorted(below, [tail, 1 - tail])
    return float((high - low + 1) * sample_rate_hz / n_fft)


def noise_amplitude(measured: SignalPower, snr_db: float, sample_rate_hz: float) -> float:
    """Return by what noise of power 1 over the whole sample rate is to be multiplied."""
    in_band = measured.power / 10 ** (snr_db / 10)
    return float(np.sqrt(in_band * sample_rate_hz / measured.bandwidth_hz))


def generator(seed: int, recording: str, frame: int) -> np.random.Generator:
    """Return the frame's own stream: the same at every SNR, and whatever other recordings there are.

    Args:
        recording: its path below the folder of all, with slashes.
    """
    return np.random.default_rng([seed, zlib.crc32(recording.encode(errors="surrogateescape")), frame])


def make_noise(
    n: int, rng: np.random.Generator, recorded: Sequence[Recording] = (), recorded_share: float = 1.0
) -> Samples:
    """Return (n,) noise of mean power 1: white, circular and Gaussian, or a stretch of a recording, or both.

    Args:
        recorded: recordings to take a stretch from; empty: all of it is white.
        recorded_share: of the power, in [0, 1].

    Raises:
        DatasetError: the stretch has no power, or samples that are no finite numbers.
    """
    white = rng.standard_normal(2 * n, dtype=np.float32).view(np.complex64) * np.float32(np.sqrt(0.5))
    if not recorded or recorded_share == 0:
        return white
    stretch = _stretch(n, rng, recorded)
    return white * np.float32(np.sqrt(1 - recorded_share)) + stretch * np.float32(np.sqrt(recorded_share))


def _stretch(n: int, rng: np.random.Generator, recorded: Sequence[Recording]) -> Samples:
    """Return (n,) samples of mean power 1 from a random place of one of the recordings, from whose end it goes on at
    its start."""
    chosen = recorded[int(rng.integers(len(recorded)))]
    start = int(rng.integers(chosen.n_samples))
    parts: list[Samples] = []
    missing = n
    while missing:
        part = read_samples(chosen.path, chosen.layout, start, min(missing, chosen.n_samples - start))
        if not len(part):
            raise DatasetError(f"found no sample at {start} of {chosen.n_samples}; the file shrank: {chosen.path}")
        parts.append(part)
        missing, start = missing - len(part), 0
    samples = np.concatenate(parts)
    power = float(np.mean(np.abs(samples) ** 2, dtype=np.float64))
    if not (np.isfinite(power) and power > 0):
        raise DatasetError(f"found a stretch of power {power}, need one above 0: sample {start} of {chosen.path}")
    return samples * np.float32(1 / np.sqrt(power))
