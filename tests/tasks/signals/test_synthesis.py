"""The made-up transmitters: right power, right place in the band, the same again from the same seed."""

import numpy as np
import pytest

from tasks.signals.synthesis import KINDS, make_recording, make_scene
from tasks.signals.waveforms import chirps, fsk, ofdm

RATE, DURATION = 4e6, 8e-3


def power(x):
    return float(np.mean(np.abs(x.astype(np.complex128)) ** 2))


def occupied(wave):
    """Return the width holding 99 % of the power, in cycles per sample."""
    spectrum = np.fft.fftshift(np.abs(np.fft.fft(wave)) ** 2)
    share = np.cumsum(spectrum) / spectrum.sum()
    return (np.searchsorted(share, 0.995) - np.searchsorted(share, 0.005)) / len(wave)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("snr_db", [-15, 0, 12])
def test_the_snr_of_a_scene_is_the_one_asked_for(kind, snr_db):
    for seed in range(5):
        scene = make_scene(kind, snr_db, seed, RATE, DURATION)
        measured = 10 * np.log10(power(scene.signal[scene.on]) / power(scene.noise))
        assert measured == pytest.approx(snr_db, abs=0.3)


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_gives_the_same_bytes(kind):
    first, again, other = (make_recording(kind, 0, seed, RATE, DURATION) for seed in (3, 3, 4))
    assert first.tobytes() == again.tobytes()
    assert first.tobytes() != other.tobytes()


@pytest.mark.parametrize("kind", KINDS)
def test_a_recording_is_finite_complex64_of_the_length_asked_for(kind):
    iq = make_recording(kind, -5, 1, RATE, DURATION)
    assert (iq.dtype, iq.shape) == (np.complex64, (32000,))
    assert np.isfinite(iq).all()


def test_the_same_seed_gives_the_same_scene_at_every_snr():
    soft, loud = (make_scene("chirp", snr, 7, RATE, DURATION) for snr in (-10, 10))
    assert np.array_equal(soft.noise, loud.noise)
    assert np.allclose(soft.signal * 10, loud.signal, rtol=1e-5)


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "background"])
def test_a_drone_is_heard_in_every_frame_and_inside_the_band(kind):
    frame = round(0.1 * (RATE / 100e6) * RATE)
    for seed in range(20):
        scene = make_scene(kind, 0, seed, RATE, DURATION)
        assert scene.on.reshape(-1, frame).any(axis=1).all()
        spectrum = np.abs(np.fft.fft(scene.signal)) ** 2
        outside = np.abs(np.fft.fftfreq(len(spectrum))) > 0.475
        assert spectrum[outside].sum() < 0.02 * spectrum.sum()


def test_narrow_hops_are_shorter_than_wide_ones_on_average():
    def burst_length(kind):
        masks = [make_scene(kind, 0, seed, RATE, DURATION).on for seed in range(10)]
        return sum(m.sum() for m in masks) / sum((np.diff(m.astype(int)) == 1).sum() for m in masks)

    assert burst_length("fhss_wide") > 1.5 * burst_length("fhss_narrow")


@pytest.mark.parametrize("width", [0.03, 0.1, 0.2])
def test_waveforms_fill_the_width_asked_for(width):
    rng = np.random.default_rng(0)
    assert occupied(ofdm(rng, 8000, width, 48)) == pytest.approx(width, rel=0.2)
    assert occupied(chirps(rng, 8000, width, 8)) == pytest.approx(width, rel=0.2)
    assert 0.4 * width < occupied(fsk(rng, 8000, width)) < 1.2 * width


def test_a_higher_rate_of_the_scale_model_keeps_the_share_of_time_on_air():
    low = make_scene("fhss_narrow", 0, 2, 2e6, 2e-3)
    high = make_scene("fhss_narrow", 0, 2, 8e6, 8e-3)
    assert high.on.mean() == pytest.approx(low.on.mean(), abs=0.02)


def test_an_unknown_kind_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="found the kind 'wifi', need one of background, chirp"):
        make_recording("wifi", 0, 0)


def test_too_short_a_recording_is_refused():
    with pytest.raises(ValueError, match="= 400 samples, need at least 1000"):
        make_recording("chirp", 0, 0, RATE, 1e-4)
