"""The images of raw recordings: right frequency, right dB, right frames."""

import cv2
import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
from pydantic import ValidationError
from scipy.signal import stft, windows

from tasks.base.errors import ConfigError, DatasetError, StorageError
from tasks.signals.params import COLOUR_MAPS, SpectrogramParams
from tasks.signals.spectrogram import (
    colour_table,
    open_recording,
    read_frames,
    render,
    spectrogram_db,
    write_spectrograms,
)

RATE = 1e6
SMALL = SpectrogramParams(sample_rate_hz=RATE, frame_s=4e-3, n_fft=128, width=64, height=64)


def tone(cycles_per_sample, n=4000, amplitude=1.0):
    return (amplitude * np.exp(2j * np.pi * cycles_per_sample * np.arange(n))).astype(np.complex64)


def noise(n, seed=0):
    return np.random.default_rng(seed).standard_normal(2 * n).astype(np.float32).view(np.complex64)


def store(path, iq):
    path.write_bytes(iq.astype("<c8").tobytes())
    return path


@pytest.mark.parametrize("bin_", [-64, -20, 0, 1, 37, 63])
def test_a_tone_lands_in_its_row_with_high_frequencies_on_top(bin_):
    decibel = spectrogram_db(tone(bin_ / 128), SMALL)
    middle = decibel[:, 5:-5]
    assert set(middle.argmax(axis=0)) == {63 - bin_}


def test_a_tone_of_amplitude_one_has_0_db_and_half_of_it_minus_6():
    assert spectrogram_db(tone(0.25), SMALL)[:, 5:-5].max() == pytest.approx(0, abs=0.001)
    assert spectrogram_db(tone(0.25, amplitude=0.5), SMALL)[:, 5:-5].max() == pytest.approx(-6.0206, abs=0.001)


@pytest.mark.parametrize("n", [4000, 4096, 4097])
@pytest.mark.parametrize("two_sided", [True, False])
def test_db_equal_those_of_scipy_as_rfuav_calls_it(n, two_sided):
    iq = noise(n)
    params = SMALL.model_copy(update={"two_sided": two_sided})
    _, _, values = stft(
        iq if two_sided else iq.real, RATE, windows.hamming(128), nperseg=128, return_onesided=not two_sided
    )
    values = np.fft.fftshift(values, axes=0) if two_sided else values
    expected = 10 * np.log10(np.abs(values) ** 2)[::-1]
    found = spectrogram_db(iq, params)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() < 0.01


def test_an_odd_number_of_points_equals_scipy_too():
    iq = noise(3000)
    params = SMALL.model_copy(update={"n_fft": 127, "overlap": 0.0})
    _, _, values = stft(iq, RATE, windows.hamming(127), nperseg=127, noverlap=0, return_onesided=False)
    expected = 20 * np.log10(np.abs(np.fft.fftshift(values, axes=0)))[::-1]
    found = spectrogram_db(iq, params)
    columns = min(found.shape[1], expected.shape[1])  # torch and scipy end an odd transform one column apart
    assert abs(found.shape[1] - expected.shape[1]) <= 1
    assert np.abs(found - expected[:, :columns] if found.shape[1] == columns else 0).max() < 0.01


@pytest.mark.parametrize("window", ["hann", "blackman", "boxcar"])
def test_every_window_equals_the_one_of_scipy(window):
    iq = noise(2000)
    params = SMALL.model_copy(update={"window": window, "overlap": 0.75})
    taper = windows.get_window(window, 128, fftbins=False)
    _, _, values = stft(iq, RATE, taper, nperseg=128, noverlap=96, return_onesided=False)
    expected = 20 * np.log10(np.abs(np.fft.fftshift(values, axes=0)))[::-1]
    inner = slice(2, -2)  # a Blackman window of mostly zeros meets float32's end there
    assert np.abs(spectrogram_db(iq, params) - expected)[:, inner].max() < 0.01


def test_time_runs_to_the_right():
    iq = np.concatenate([np.zeros(2000, np.complex64), tone(0.0, 2000)])
    picture = render(spectrogram_db(iq, SMALL), SMALL.model_copy(update={"colour_map": "gray"}))
    assert picture[:, 40:].max() > 250
    assert picture[:, :28].max() < 60


def test_silence_gives_a_picture_and_not_infinities():
    decibel = spectrogram_db(np.zeros(4000, np.complex64), SMALL)
    assert np.abs(decibel + 200).max() < 1e-4
    assert render(decibel, SMALL).shape == (64, 64, 3)


def test_a_fixed_db_range_gives_loud_and_soft_frames_different_colours():
    params = SMALL.model_copy(update={"db_range": (-90.0, 0.0), "colour_map": "gray"})
    loud, soft = (render(spectrogram_db(noise(4000) * k, params), params).mean() for k in (0.1, 0.01))
    assert loud - soft == pytest.approx(20 / 90 * 256, abs=2)


def test_percentiles_make_the_picture_independent_of_gain():
    pictures = [render(spectrogram_db(noise(4000) * np.float32(k), SMALL), SMALL) for k in (1.0, 1 / 1024)]
    assert np.mean(pictures[0] != pictures[1]) < 0.01


@pytest.mark.parametrize(("width", "height"), [(32, 200), (200, 32), (300, 300), (1800, 1200)])
def test_a_picture_has_the_size_asked_for(width, height):
    params = SMALL.model_copy(update={"width": width, "height": height})
    assert render(spectrogram_db(noise(4000), params), params).shape == (height, width, 3)


def test_colours_are_those_of_matplotlib():
    rgb = matplotlib.colormaps["jet"](np.arange(256), bytes=True)[:, :3]
    assert np.array_equal(colour_table("jet")[:, 0, ::-1], rgb)


def test_parula_runs_from_blue_to_yellow():
    blue, green, red = colour_table("parula")[[0, -1], 0].T.astype(int)
    assert blue[0] > red[0] + 50
    assert red[1] > blue[1] + 100
    assert green[1] > blue[1] + 100


def test_a_colour_map_runs_backwards_with_r():
    for name in ("jet", "parula"):
        there, back = colour_table(name).astype(int), colour_table(f"{name}_r").astype(int)
        assert np.abs(back - there[::-1]).max() <= 1  # each is rounded by itself


def test_every_colour_map_named_is_there_or_newer_than_the_oldest_matplotlib_taken():
    newer = {"berlin", "managua", "vanimo", "okabe_ito", "Grays", "grey", "gist_grey", "gist_yerg"}
    missing = {name for name in COLOUR_MAPS if name not in matplotlib.colormaps}
    assert missing <= newer | {"parula"}
    for name in COLOUR_MAPS - missing:
        assert colour_table(name).shape == (256, 1, 3)


def test_a_colour_map_that_this_matplotlib_lacks_is_an_error():
    with pytest.raises(ConfigError, match="found the colour map 'newest', which matplotlib"):
        colour_table("newest")


def imshow(decibel, params):
    """An image as RFUAV's code draws it, with pyplot's own ways."""
    figure = plt.figure(figsize=(params.width / 100, params.height / 100), dpi=100)
    try:
        plt.imshow(decibel, aspect="auto", cmap=params.colour_map)
        plt.axis("off")
        plt.subplots_adjust(left=0, right=1, bottom=0, top=1)
        figure.canvas.draw()
        return np.asarray(figure.canvas.buffer_rgba())[:, :, 2::-1]
    finally:
        plt.close(figure)


@pytest.mark.parametrize("colour_map", ["jet", "hot"])
def test_drawn_by_matplotlib_the_pixels_are_those_of_imshow(colour_map):
    changes = {"drawing": "matplotlib", "percentiles": (0.0, 100.0), "colour_map": colour_map}
    params = SMALL.model_copy(update={**changes, "width": 120, "height": 80})
    decibel = spectrogram_db(noise(4000), params)
    assert np.array_equal(render(decibel, params), imshow(decibel, params))


@pytest.mark.parametrize("size", [(113, 57), (1800, 1200), (16, 999)])
def test_drawn_by_matplotlib_a_picture_has_the_size_asked_for(size):
    params = SMALL.model_copy(update={"drawing": "matplotlib", "width": size[0], "height": size[1]})
    assert render(spectrogram_db(noise(4000), params), params).shape == (size[1], size[0], 3)


def test_both_ways_of_drawing_show_the_same_scene():
    params = SMALL.model_copy(update={"colour_map": "gray", "db_range": (-60.0, 0.0)})
    decibel = spectrogram_db(tone(0.2, amplitude=0.5) + 0.01 * noise(4000), params)
    fast, slow = (
        render(decibel, params.model_copy(update={"drawing": drawing})).astype(int)
        for drawing in ("fast", "matplotlib")
    )
    assert np.corrcoef(fast.ravel(), slow.ravel())[0, 1] > 0.98


def test_a_whole_recording_gives_every_frame_and_no_note(tmp_path):
    iq = noise(12000)
    recording = open_recording(store(tmp_path / "a.iq", iq), SMALL)
    frames = list(read_frames(recording, SMALL))
    assert (recording.n_frames, recording.note) == (3, None)
    assert [f.start_s for f in frames] == pytest.approx([0, 0.004, 0.008])
    assert np.array_equal(np.concatenate([f.iq for f in frames]), iq)


def test_a_truncated_recording_gives_the_frames_it_has_and_says_so(tmp_path):
    recording = open_recording(store(tmp_path / "a.iq", noise(11999)), SMALL)
    assert len(list(read_frames(recording, SMALL))) == 2
    assert "made 2 whole frame(s), left out the last 3999 of 11999 samples" in (recording.note or "")


@pytest.mark.parametrize(("hop_s", "n_frames"), [(2e-3, 5), (4e-3, 3), (6e-3, 2)])
def test_frames_may_overlap_or_leave_gaps(tmp_path, hop_s, n_frames):
    params = SMALL.model_copy(update={"hop_s": hop_s})
    iq = noise(12000)
    recording = open_recording(store(tmp_path / "a.iq", iq), params)
    frames = list(read_frames(recording, params))
    assert (len(frames), recording.note) == (n_frames, None)
    assert np.array_equal(frames[1].iq, iq[round(hop_s * RATE) :][:4000])


def test_a_file_cut_inside_a_sample_is_an_error(tmp_path):
    path = tmp_path / "odd.iq"
    path.write_bytes(bytes(8 * 4000 + 3))
    with pytest.raises(DatasetError, match=r"found 32003 bytes, need a multiple of 8 .*odd\.iq"):
        open_recording(path, SMALL)


def test_a_file_shorter_than_a_frame_is_an_error(tmp_path):
    path = store(tmp_path / "short.iq", noise(3999))
    with pytest.raises(DatasetError, match=r"found 3999 samples, need 4000 .*short\.iq"):
        open_recording(path, SMALL)


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(DatasetError, match=r"no recording.*none\.iq"):
        open_recording(tmp_path / "none.iq", SMALL)


def test_samples_that_are_no_numbers_are_an_error_with_their_frame(tmp_path):
    iq = noise(8000)
    iq[5000] = np.nan
    recording = open_recording(store(tmp_path / "a.iq", iq), SMALL)
    with pytest.raises(DatasetError, match=r"NaN or infinite.*frame 1 of .*a\.iq"):
        list(read_frames(recording, SMALL))


def test_a_file_that_shrinks_while_read_is_an_error(tmp_path):
    path = store(tmp_path / "a.iq", noise(8000))
    recording = open_recording(path, SMALL)
    store(path, noise(5000))
    with pytest.raises(DatasetError, match="found 1000 samples, need 4000; the file shrank"):
        list(read_frames(recording, SMALL))


def test_pictures_are_named_after_recording_and_frame(tmp_path):
    path = store(tmp_path / "dji_rec001.iq", noise(8000))
    written = list(write_spectrograms(path, tmp_path / "out", SMALL))
    assert [image.path.name for image in written] == ["dji_rec001_f00.jpg", "dji_rec001_f01.jpg"]
    assert cv2.imread(str(written[0].path)).shape == (64, 64, 3)


def test_a_file_in_the_place_of_the_target_folder_is_a_storage_error(tmp_path):
    path = store(tmp_path / "a.iq", noise(4000))
    (tmp_path / "out").write_text("in the way")
    with pytest.raises(StorageError, match="found a file where a folder is needed"):
        list(write_spectrograms(path, tmp_path / "out", SMALL))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"frame_s": 1e-6}, "is 100 samples; need at least n_fft 1024"),
        ({"db_range": (0, -60)}, "need the lower end first"),
        ({"percentiles": (50, 50)}, "need 0 <= low < high <= 100"),
        ({"colour_map": "jett"}, r"found the colour map 'jett', need one of matplotlib's or parula, such as \['jet'"),
        ({"n_ftt": 512}, "n_ftt"),
    ],
)
def test_impossible_parameters_are_refused_with_their_name(values, message):
    with pytest.raises(ValidationError, match=message):
        SpectrogramParams.model_validate(values)
