"""Synthesises drone-like I/Q recordings of five kinds from a seed, at a given signal-to-noise ratio.

Widths and times are those of real links seen by a receiver of 100 MS/s in frames of 0.1 s (for example a Futaba
remote control: bursts of 1.5 MHz and 2 ms, one every 7 ms; RFUAV data set, measured on its images). At another
sample rate the recording is a scale model: band and time shrink by the same factor, sample_rate / 100 MHz, so that a
frame of 0.1 s times that factor shows the same image from fewer samples.
"""

import zlib
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from tasks.signals.waveforms import Samples, chirps, fsk, ofdm

Kind = Literal["background", "chirp", "fhss_narrow", "fhss_wide", "ofdm_video"]
KINDS: tuple[Kind, ...] = get_args(Kind)
REFERENCE_HZ = 100e6


@dataclass(frozen=True, slots=True)
class ReceivedSignal:
    """What reaches the antenna, part by part; noise has mean power 1 over the whole band."""

    signal: Samples  # (n,) what the class is named after, mean power 10**(snr_db/10) where `on`
    on: NDArray[np.bool_]  # (n,) a burst of `signal` is being sent
    interference: Samples  # (n,) other people's transmissions
    noise: Samples  # (n,) white, circular, Gaussian


def make_recording(
    kind: Kind, snr_db: float, seed: int, sample_rate_hz: float = 100e6, duration_s: float = 0.1
) -> Samples:
    """Return one recording of `kind`: the scene of `make_scene` as an imperfect receiver hears it.

    Carrier, hop sequence, dwell, bandwidth, fading, interference, gain, phase noise and I/Q imbalance are drawn once
    per recording, so its frames are alike: split by recording, or the test part leaks into training.

    Args:
        snr_db: mean power of the signal while a burst is on, over the noise power in the full band (that is, in
            sample_rate_hz). A burst of 2 % of the band at 0 dB thus stands 17 dB over the noise around it.
            For `background`, which has no drone, the same figure for its Wi-Fi bursts.
        seed: the same seed gives the same scene at every snr_db, and the same bytes at the same one.
        duration_s: seconds; the recording has round(duration_s * sample_rate_hz) samples.

    Returns:
        (n,) complex64 of arbitrary gain, rms about 0.003 to 0.03 at low SNR.

    Raises:
        ValueError: unknown kind, or fewer than 1000 samples.
    """
    scene = make_scene(kind, snr_db, seed, sample_rate_hz, duration_s)
    return _receive(scene.signal + scene.interference + scene.noise, _generator(kind, seed, "receiver"))


def make_scene(kind: Kind, snr_db: float, seed: int, sample_rate_hz: float, duration_s: float) -> ReceivedSignal:
    """Return the parts of a recording before the receiver; see `make_recording`, which adds them up."""
    if kind not in KINDS:
        raise ValueError(f"found the kind {kind!r}, need one of {', '.join(KINDS)}")
    n = round(duration_s * sample_rate_hz)
    if n < 1000:
        raise ValueError(f"found {duration_s} s at {sample_rate_hz:g} Hz = {n} samples, need at least 1000")
    band = _Band(n, sample_rate_hz)
    rng = _generator(kind, seed, "signal")
    match kind:
        case "fhss_narrow":
            _hop_narrow(band, rng)
        case "fhss_wide":
            _hop_wide(band, rng)
        case "chirp":
            _send_chirps(band, rng)
        case "ofdm_video":
            _send_video(band, rng)
        case "background":
            _send_wifi(band, rng, rng.uniform(6, 16))
    amplitude = 10 ** (snr_db / 20)
    signal = _fade(band.wave, band.on, rng) * np.float32(amplitude)
    interference = _interfere(n, sample_rate_hz, _generator(kind, seed, "interference"), kind) * np.float32(amplitude)
    noise = _generator(kind, seed, "noise").standard_normal(2 * n, dtype=np.float32).view(np.complex64)
    return ReceivedSignal(signal, band.on, interference, noise * np.float32(np.sqrt(0.5)))


class _Band:
    """An empty band that bursts are put into; frequencies in MHz and times in ms of the 100 MHz reference."""

    def __init__(self, n: int, sample_rate_hz: float) -> None:
        self.n = n
        self.wave = np.zeros(n, dtype=np.complex64)
        self.on = np.zeros(n, dtype=np.bool_)
        self.per_ms = 1e-3 * sample_rate_hz * (sample_rate_hz / REFERENCE_HZ)  # samples in one reference ms
        self.length_ms = n / self.per_ms

    def samples(self, ms: float) -> int:
        """Return a length in samples, at least 8."""
        return max(8, round(ms * self.per_ms))

    def put(self, start_ms: float, centre_mhz: float, burst: Samples) -> None:
        """Add a burst that begins at `start_ms` (negative: before the recording), shifted to its carrier."""
        start = round(start_ms * self.per_ms)
        first, last = max(0, start), min(self.n, start + len(burst))
        if first >= last:
            return
        turns = (centre_mhz / 100) * np.arange(first, last)
        carrier = np.exp(2j * np.pi * (turns % 1.0)).astype(np.complex64)
        self.wave[first:last] += burst[first - start : last - start] * carrier
        self.on[first:last] = True


def _generator(kind: Kind, seed: int, part: str) -> np.random.Generator:
    """Return the part's own stream: one part drawing more does not change the others."""
    return np.random.default_rng([seed, zlib.crc32(kind.encode()), zlib.crc32(part.encode())])


def _hop_narrow(band: _Band, rng: np.random.Generator) -> None:
    """Short narrow bursts, one per slot, over many channels in a random order that repeats."""
    width, dwell = rng.uniform(1.2, 3.0), rng.uniform(1.6, 3.2)
    period = dwell * rng.uniform(1.8, 3.5)
    n_channels, span = int(rng.integers(16, 41)), rng.uniform(40, 84)
    centre = rng.uniform(-1, 1) * (88 - span) / 2
    channels = centre + span * (rng.permutation(n_channels) / (n_channels - 1) - 0.5)
    slot, start = 0, -rng.uniform(0, period)
    while start < band.length_ms:
        band.put(start, channels[slot % n_channels], fsk(rng, band.samples(dwell), width / 100))
        start, slot = start + period, slot + 1


def _hop_wide(band: _Band, rng: np.random.Generator) -> None:
    """Longer and wider bursts, nearly back to back, stepping through few channels by a fixed stride."""
    width, dwell = rng.uniform(2.4, 6.0), rng.uniform(3.5, 8.0)
    period = dwell * rng.uniform(1.1, 2.0)
    n_channels, span = int(rng.integers(4, 10)), rng.uniform(30, 76)
    centre = rng.uniform(-1, 1) * (82 - span) / 2
    stride = int(rng.integers(1, n_channels))
    slot, start = int(rng.integers(n_channels)), -rng.uniform(0, period)
    while start < band.length_ms:
        carrier = centre + span * (slot * stride % n_channels / (n_channels - 1) - 0.5)
        band.put(start, carrier, fsk(rng, band.samples(dwell), width / 100))
        start, slot = start + period, slot + 1


def _send_chirps(band: _Band, rng: np.random.Generator) -> None:
    """Packets of linear sweeps; the carrier moves between packets."""
    width, symbol = rng.uniform(5, 20), rng.uniform(3, 9)
    n_symbols, gap = int(rng.integers(6, 13)), rng.uniform(3, 20)
    carriers = rng.uniform(-1, 1, int(rng.integers(1, 5))) * (90 - width) / 2
    slot, start = 0, -rng.uniform(0, n_symbols * symbol)
    while start < band.length_ms:
        burst = chirps(rng, band.samples(n_symbols * symbol), width / 100, n_symbols)
        band.put(start, carriers[slot % len(carriers)], burst)
        start, slot = start + n_symbols * symbol + gap, slot + 1


def _send_video(band: _Band, rng: np.random.Generator) -> None:
    """Wide downlink frames at a steady beat, the last part of some left empty, now and then on another carrier."""
    width, period = rng.choice([9.0, 13.5, 18.0]) * rng.uniform(0.9, 1.1), rng.uniform(4, 9)
    duty, n_carriers = rng.uniform(0.55, 0.88), int(rng.integers(36, 73))
    carrier = rng.uniform(-1, 1) * (90 - width) / 2
    start = -rng.uniform(0, period)
    while start < band.length_ms:
        load = duty * (1.0 if rng.random() < 0.7 else rng.uniform(0.5, 1.0))
        band.put(start, carrier, ofdm(rng, band.samples(load * period), width / 100, n_carriers))
        start += period
        if rng.random() < 0.02:
            carrier = rng.uniform(-1, 1) * (90 - width) / 2


def _send_wifi(band: _Band, rng: np.random.Generator, per_100_ms: float) -> None:
    """Sporadic wide bursts of very unequal length on one or two channels: traffic comes in clumps."""
    n_channels = int(rng.integers(1, 3))
    carriers, width = rng.uniform(-38, 38, n_channels), rng.uniform(16, 20)
    start = rng.exponential(100 / per_100_ms) * 0.5
    while start < band.length_ms:
        length = min(5.0, 0.4 + rng.exponential(1.2))
        burst = ofdm(rng, band.samples(length), width / 100, 52)
        band.put(start, carriers[rng.integers(n_channels)], burst)
        start += length + (rng.uniform(0.2, 1) if rng.random() < 0.4 else rng.exponential(140 / per_100_ms))


def _send_bluetooth(band: _Band, rng: np.random.Generator, per_100_ms: float) -> None:
    """Slots of 0.4 to 2.9 ms, 1 MHz wide, anywhere in the band."""
    start = rng.exponential(100 / per_100_ms)
    while start < band.length_ms:
        length = rng.choice([0.4, 1.6, 2.9])
        band.put(start, rng.uniform(-40, 40), fsk(rng, band.samples(length), 0.012))
        start += length + rng.exponential(100 / per_100_ms)


def _interfere(n: int, sample_rate_hz: float, rng: np.random.Generator, kind: Kind) -> Samples:
    """Return what others send, in units of the signal's amplitude: Wi-Fi, Bluetooth, a steady spur, or nothing."""
    total = np.zeros(n, dtype=np.complex64)
    level = 10 ** (rng.uniform(-12, -3, 3) / 20)
    here = rng.random(3) < (0.4, 0.4, 0.3)
    wifi, bluetooth = _Band(n, sample_rate_hz), _Band(n, sample_rate_hz)
    if here[0] and kind != "background":
        _send_wifi(wifi, rng, rng.uniform(2, 8))
        total += wifi.wave * np.float32(level[0])
    if here[1]:
        _send_bluetooth(bluetooth, rng, rng.uniform(2, 12))
        total += bluetooth.wave * np.float32(level[1])
    if here[2]:
        turns = rng.uniform(-0.45, 0.45) * np.arange(n)
        total += (0.15 * level[2] * np.exp(2j * np.pi * (turns % 1.0))).astype(np.complex64)
    return total


def _fade(wave: Samples, on: NDArray[np.bool_], rng: np.random.Generator) -> Samples:
    """Return `wave` over two paths and a slow swell, with mean power 1 where `on`; nothing on stays nothing."""
    n = len(wave)
    delay, echo = int(rng.integers(1, 9)), rng.uniform(0, 0.6) * np.exp(2j * np.pi * rng.random())
    faded = wave.copy()
    faded[delay:] += np.complex64(echo) * wave[:-delay]
    swell = 1 + rng.uniform(0, 0.45) * np.sin(2 * np.pi * (rng.uniform(0.5, 3) * np.arange(n) / n + rng.random()))
    faded *= swell.astype(np.float32)
    power = float(np.mean(np.abs(faded[on]) ** 2, dtype=np.float64)) if on.any() else 0.0
    return faded / np.float32(np.sqrt(power)) if power else faded


def _receive(antenna: Samples, rng: np.random.Generator) -> Samples:
    """Return what the receiver makes of it: filter edges, phase noise, I/Q imbalance, a DC offset, a gain."""
    n = len(antenna)
    frequency = np.abs(np.fft.fftfreq(n)).astype(np.float32)
    edge = rng.uniform(0.46, 0.49)  # of the sample rate; the pale rim at the top of the real images
    response = 1 / np.sqrt(1 + (frequency / edge) ** 30)
    heard = np.fft.ifft(np.fft.fft(antenna) * response)
    jitter = rng.standard_normal(n, dtype=np.float32) * np.float32(rng.uniform(0, 0.004))
    heard = heard * np.exp(1j * np.cumsum(jitter))
    imbalance = rng.uniform(0, 0.03) * np.exp(2j * np.pi * rng.random())  # image at -30 dB or lower
    offset = rng.uniform(0, 0.08) * np.exp(2j * np.pi * rng.random())
    gain = 10 ** (rng.uniform(-50, -30) / 20)
    return ((heard + imbalance * heard.conj() + offset) * gain).astype(np.complex64)
