"""The images of an SNR benchmark show every curve, named, at its height."""

import numpy as np
import pytest

from tasks.inference.snr.benchmark import SnrGrade, interval
from tasks.inference.snr.plots import figures_of, snr_confusion_figure, snr_curves_figure


def graded(snr_db, right, model="m", n=10):
    confusion = np.array([[right, n - right], [0, n]])
    low, high = interval(right, n)
    return SnrGrade(model, None, snr_db, n, right / n, low, high, f1_macro=0.5, confusion=confusion)


def test_every_model_has_a_curve_with_its_accuracies_and_there_is_one_for_guessing():
    fig = snr_curves_figure([graded(10, 9), graded(-20, 2), graded(-20, 4, "n"), graded(10, 10, "n")], 4)
    lines = {line.get_label(): line for line in fig.axes[0].lines}
    assert set(lines) == {"m", "n", "one of 4 at random"}
    assert list(lines["m"].get_xdata()) == [-20, 10]
    assert list(lines["m"].get_ydata()) == [0.2, 0.9]
    assert lines["one of 4 at random"].get_ydata()[0] == 0.25


def test_macro_f1_has_its_own_picture():
    fig = snr_curves_figure([graded(0, 5)], 2, "f1_macro")
    assert list(fig.axes[0].lines[0].get_ydata()) == [0.5]
    assert fig.axes[0].get_ylabel() == "macro F1"


@pytest.mark.parametrize(("n_snrs", "shown"), [(1, 1), (21, 21), (41, 21)])
def test_confusion_is_drawn_for_each_snr_or_every_second(n_snrs, shown):
    fig = snr_confusion_figure([graded(snr, 5) for snr in range(n_snrs)], ["a", "b$"])
    titles = [ax.get_title() for ax in fig.axes if ax.get_title()]
    assert len(titles) == shown
    assert titles[0] == "0 dB: 50%"


def test_there_is_a_confusion_picture_for_every_curve():
    grades = [graded(0, 5), graded(0, 6, "n")]
    found = figures_of(grades, {"m": ["a", "b"], "n": ["a", "b"]})
    assert set(found) == {"accuracy.png", "f1_macro.png", "confusion_01.png", "confusion_02.png"}
