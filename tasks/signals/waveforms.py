"""Synthesises single bursts: frequency-shift keying, linear chirps and OFDM."""

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.complex64]


def fsk(rng: np.random.Generator, n: int, width: float) -> Samples:
    """Return `n` samples of Gaussian frequency-shift keying of random bits, the modulation of most remote controls.

    Args:
        width: occupied band in cycles per sample, in (0, 1); Carson: bit rate + two deviations.
    """
    per_bit = max(2, round(1.5 / width))  # deviation = bit rate / 4: modulation index 0.5, no spectral lines
    bits = rng.integers(0, 2, n // per_bit + 3) * 2.0 - 1.0
    smooth = np.hanning(per_bit + 2)  # one bit long: close to a Gaussian filter
    shape = np.convolve(np.repeat(bits, per_bit), smooth / smooth.sum(), mode="same")
    frequency = shape[per_bit : per_bit + n] * (width / 6)
    return _soft_edges(np.exp(2j * np.pi * np.cumsum(frequency)), per_bit)


def chirps(rng: np.random.Generator, n: int, width: float, n_symbols: int) -> Samples:
    """Return LoRa-like chirp spread spectrum: rising sweeps over `width`, each starting where its data says.

    The first quarter of the symbols is a preamble of whole sweeps, then one falls, then come the data.
    """
    time = np.arange(n) * (n_symbols / n)
    symbol = np.minimum(time.astype(int), n_symbols - 1)
    start = rng.random(n_symbols)
    n_preamble = max(2, n_symbols // 4)
    start[:n_preamble] = 0
    sweep = (time - symbol + start[symbol]) % 1.0 - 0.5  # in -0.5 .. 0.5 of the width
    sweep[symbol == n_preamble] *= -1
    return _soft_edges(np.exp(2j * np.pi * np.cumsum(sweep * width)), max(2, n // (8 * n_symbols)))


def ofdm(rng: np.random.Generator, n: int, width: float, n_carriers: int) -> Samples:
    """Return OFDM: random QPSK on `n_carriers` over `width`, none at the centre, a cyclic prefix of an eighth.

    No synchronisation symbol: bursts of a scale model are a few symbols long, so that one would be most of them.
    """
    length = max(n_carriers + 2, round(n_carriers / width))  # samples per symbol: the spacing is 1/length
    prefix = length // 8
    count = -(-n // (length + prefix))
    index = np.arange(n_carriers) - n_carriers // 2
    index[index >= 0] += 1
    data = np.exp(0.5j * np.pi * (rng.integers(0, 4, (count, n_carriers)) + 0.5))
    grid = np.zeros((count, length), dtype=np.complex128)
    grid[:, index % length] = data
    symbols = np.fft.ifft(grid, axis=1) * (length / np.sqrt(n_carriers))  # mean power 1
    return _soft_edges(np.concatenate([symbols[:, -prefix:], symbols], axis=1).reshape(-1)[:n], max(2, length // 8))


def _soft_edges(wave: NDArray[np.complex128], ramp: int) -> Samples:
    """Return `wave` raised and lowered along half a cosine, as an amplifier is keyed, so that bursts do not click."""
    ramp = min(ramp, len(wave) // 4)
    if ramp:
        edge = np.sin(np.linspace(0, np.pi / 2, ramp + 2)[1:-1]) ** 2
        wave[:ramp] *= edge
        wave[-ramp:] *= edge[::-1]
    return wave.astype(np.complex64)
