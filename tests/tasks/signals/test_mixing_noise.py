"""Noise is as strong as the recipe says, the same for the same seed, and lies where it was asked for."""

import numpy as np
import pytest

from tasks.base.errors import DatasetError
from tasks.signals.iq_layout import read_samples
from tasks.signals.mixing_noise import (
    active_samples,
    generator,
    make_noise,
    measure,
    noise_amplitude,
    occupied_bandwidth,
)
from tasks.signals.params import MixParams, SpectrogramParams
from tasks.signals.spectrogram import open_recording

RATE = 1e6
N = 2**16


def tone(n=N, turns=0.1, amplitude=1.0):
    return (amplitude * np.exp(2j * np.pi * turns * np.arange(n))).astype(np.complex64)


def bursts(n=N, on=0.25, amplitude=2.0):
    """Sent for the first quarter of every 4096 samples."""
    return tone(n, amplitude=amplitude) * (np.arange(n) % 4096 < on * 4096)


def power(iq):
    return float(np.mean(np.abs(iq) ** 2, dtype=np.float64))


def band(width, n=N, seed=0):
    """White noise within `width` of the sample rate, around zero."""
    spectrum = np.fft.fft(np.random.default_rng(seed).standard_normal(2 * n).view(np.complex128))
    return np.fft.ifft(spectrum * (np.abs(np.fft.fftfreq(n)) < width / 2)).astype(np.complex64)


@pytest.mark.parametrize("snr_db", [-20, -3.5, 0, 20])
def test_noise_over_the_full_band_is_snr_db_below_the_signal(snr_db):
    iq = tone()
    measured = measure(iq, RATE, MixParams())
    noise = make_noise(N, generator(0, "a", 0)) * noise_amplitude(measured, snr_db, RATE)
    assert 10 * np.log10(power(iq) / power(noise)) == pytest.approx(snr_db, abs=0.05)


def test_power_is_that_of_the_bursts_and_not_of_the_gaps():
    measured = measure(bursts(), RATE, MixParams())
    assert measured.power == pytest.approx(4, rel=0.01)
    assert measured.active_share == pytest.approx(0.25, abs=0.01)


def test_power_over_all_counts_the_gaps():
    measured = measure(bursts(), RATE, MixParams(power_over="all"))
    assert (measured.power, measured.active_share) == (pytest.approx(1, rel=0.01), 1.0)


def test_faint_noise_of_the_recording_itself_does_not_count_as_sent():
    iq = bursts() + make_noise(N, generator(1, "b", 0)) * np.float32(0.1)
    assert np.mean(active_samples(iq)) == pytest.approx(0.25, abs=0.01)


def test_a_signal_that_is_always_on_is_active_throughout():
    assert active_samples(tone(1000)).all()
    assert len(active_samples(tone(1000))) == 1000


@pytest.mark.parametrize("width", [0.05, 0.3, 0.8])
def test_the_occupied_band_is_that_of_the_signal(width):
    assert occupied_bandwidth(band(width), RATE) == pytest.approx(0.99 * width * RATE, rel=0.05)


def test_noise_counted_in_a_tenth_of_the_band_is_ten_times_stronger_over_all_of_it():
    full = measure(tone(), RATE, MixParams())
    tenth = measure(tone(), RATE, MixParams(bandwidth_hz=RATE / 10))
    assert noise_amplitude(tenth, 0, RATE) ** 2 == pytest.approx(10 * noise_amplitude(full, 0, RATE) ** 2)


def test_occupied_noise_is_snr_db_below_the_signal_within_its_band():
    iq = band(0.2)
    params = MixParams(bandwidth="occupied")
    noise = make_noise(N, generator(0, "a", 0)) * noise_amplitude(measure(iq, RATE, params), -6, RATE)
    inside = np.fft.ifft(np.fft.fft(noise) * (np.abs(np.fft.fftfreq(N)) < 0.1))
    assert 10 * np.log10(power(iq) / power(inside)) == pytest.approx(-6, abs=0.2)


def test_the_same_seed_gives_the_same_noise_and_another_recording_frame_or_seed_does_not():
    first = make_noise(100, generator(0, "a/r.iq", 0))
    assert np.array_equal(first, make_noise(100, generator(0, "a/r.iq", 0)))
    for other in (generator(1, "a/r.iq", 0), generator(0, "b/r.iq", 0), generator(0, "a/r.iq", 1)):
        assert not np.array_equal(first, make_noise(100, other))


def stored(tmp_path, iq, name="n.iq"):
    (tmp_path / name).write_bytes(iq.astype("<c8").tobytes())
    return open_recording(tmp_path / name, SpectrogramParams(sample_rate_hz=RATE, frame_s=16 / RATE, n_fft=16))


def test_recorded_noise_is_a_stretch_of_the_file_that_wraps_and_has_power_one(tmp_path):
    recorded = stored(tmp_path, tone(500, amplitude=0.01) * np.arange(1, 501))
    noise = make_noise(1200, generator(3, "a", 0), [recorded])
    assert power(noise) == pytest.approx(1, rel=1e-5)
    whole = read_samples(recorded.path, recorded.layout, 0, 500)
    start = int(np.argmin([np.abs(noise[0] / np.abs(noise[:500]).max() - w / np.abs(whole).max()) for w in whole]))
    expected = np.resize(np.roll(whole, -start), 1200)
    np.testing.assert_allclose(noise / np.abs(noise).max(), expected / np.abs(expected).max(), atol=1e-5)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_recorded_and_white_noise_share_the_power(tmp_path, share):
    recorded = stored(tmp_path, tone(N, turns=0.25))
    noise = make_noise(N, generator(0, "a", 0), [recorded], share)
    spectrum = np.abs(np.fft.fft(noise)) ** 2
    assert spectrum.max() / spectrum.sum() == pytest.approx(share, abs=0.02)
    assert power(noise) == pytest.approx(1, abs=0.02)


def test_silence_cannot_be_mixed(tmp_path):
    with pytest.raises(DatasetError, match="found nothing but zeros, need a signal"):
        measure(np.zeros(1000, np.complex64), RATE, MixParams())
    recorded = stored(tmp_path, np.zeros(100, np.complex64))
    with pytest.raises(DatasetError, match=r"found a stretch of power 0.0, need one above 0: .*n\.iq"):
        make_noise(50, generator(0, "a", 0), [recorded])


def test_a_bandwidth_wider_than_the_recording_is_an_error():
    with pytest.raises(DatasetError, match=r"found 1e\+06 samples/s, need bandwidth_hz 2e\+06 at least"):
        measure(tone(), RATE, MixParams(bandwidth_hz=2e6))


def test_an_snr_named_twice_is_refused():
    with pytest.raises(ValueError, match="need each once"):
        MixParams(snrs_db=(0, 5, 0))
