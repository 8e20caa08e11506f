import cv2
import matplotlib
import numpy as np
import pytest
from matplotlib._pylab_helpers import Gcf
from matplotlib.text import Text

from tasks.base.errors import StorageError
from tasks.classification.grading import plots
from tasks.classification.grading.evaluate import calibration_bins
from tasks.classification.grading.metrics import ClassGrades
from tasks.images import figures


def texts(figure):
    return [t.get_text() for t in figure.findobj(Text) if t.get_text()]


def drawn(figure, folder):
    """Return the saved image, (H, W, 3) uint8; coarse, to be quick."""
    figure.set_dpi(50)
    figures.save(figure, folder / "picture.png")
    return cv2.imread(str(folder / "picture.png"))


def confusion(n):
    return np.random.default_rng(0).integers(0, 30, (n, n)) + np.eye(n, dtype=int) * 200


@pytest.mark.parametrize("n", [2, 40])
def test_labels_of_a_confusion_matrix_do_not_overlap(n, tmp_path):
    counts = np.eye(n, dtype=int) * 1800
    counts[0] = 999
    figure = figures.confusion_matrix_figure(counts, [f"a_long_class_name_{i}" for i in range(n)])
    drawn(figure, tmp_path)
    renderer = figure.canvas.get_renderer()
    ticks = [label.get_window_extent(renderer) for label in figure.axes[0].get_yticklabels()]
    tops = sorted((box.y0, box.y1) for box in ticks)
    assert all(below[1] <= above[0] + 0.5 for below, above in zip(tops, tops[1:], strict=False))
    cell = figure.axes[0].get_window_extent(renderer).width / n
    assert all(t.get_window_extent(renderer).width < cell for t in figure.axes[0].texts)
    assert min(t.get_fontsize() for t in figure.axes[0].texts) >= 6


def test_confusion_matrix_tells_counts_and_leaves_zeros_blank():
    figure = figures.confusion_matrix_figure(np.array([[8, 0], [1, 1700]]), ["a", "b"])
    assert sorted(t.get_text() for t in figure.axes[0].texts) == ["1", "1.7k", "8"]
    assert "1,708 of 1,709 right (99.9%)" in texts(figure)


def test_a_class_without_images_does_not_break_the_confusion_matrix(tmp_path):
    drawn(figures.confusion_matrix_figure(np.array([[3, 0], [0, 0]]), ["a", "b"]), tmp_path)


def test_any_folder_name_can_be_drawn(tmp_path):
    names = ["$a_{$b$", r"$\frac{1$", "a\nb", "caf\udce9", "x" * 200]
    drawn(figures.confusion_matrix_figure(np.eye(5, dtype=int), names), tmp_path)
    drawn(plots.per_class_figure({name: ClassGrades(1.0, 1.0, 1.0, 1.0, 1, 1) for name in names}), tmp_path)
    drawn(figures.gallery_figure([np.zeros((4, 4), np.uint8)] * 5, names, title=names[0]), tmp_path)


def history(n):
    return [
        {
            "epoch": e,
            "train_loss": 1 / e,
            "val_loss": 1.1 / e,
            "train_acc": 0.5,
            "val_acc": 0.4 + 0.1 * (e == 2),
        }
        | {"best_acc": 0.5, "macro_f1": 0.4, "micro_f1": None, "mAP": 0.6, "learning_rate": 1e-4, "notes": ()}
        for e in range(1, n + 1)
    ]


def test_learning_curves_mark_the_first_best_epoch_or_the_one_given():
    assert "best epoch (2)" in texts(plots.learning_curves_figure(history(5)))
    assert "best epoch (4)" in texts(plots.learning_curves_figure(history(5), best_epoch=4))


def test_learning_curves_leave_out_what_was_never_measured():
    names = texts(plots.learning_curves_figure(history(5)))
    assert "micro F1" not in names
    assert {"macro F1", "mAP", "train", "validation", "best so far", "learning rate"} <= set(names)


@pytest.mark.parametrize("n", [0, 1, 200])
def test_learning_curves_of_any_length_are_drawn(n, tmp_path):
    assert drawn(plots.learning_curves_figure(history(n)), tmp_path).std() > 5


def test_reliability_is_drawn_with_empty_bins(tmp_path):
    bins = calibration_bins(np.array([0.55, 0.95, 0.97]), np.array([True, True, False]), 15)
    figure = plots.reliability_figure(bins, 0.123)
    assert "Expected calibration error 0.123" in texts(figure)
    assert drawn(figure, tmp_path).std() > 5


def test_per_class_figure_has_the_best_class_on_top_and_names_absent_ones(tmp_path):
    rows = {
        "bad": ClassGrades(0.2, 0.2, 0.2, 0.2, 10, 10),
        "absent": ClassGrades(None, None, None, None, 0, 3),
        "good": ClassGrades(0.9, 0.9, 0.9, 0.9, 1234, 10),
    }
    figure = plots.per_class_figure(rows)
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == ["absent", "bad", "good"]
    assert {"not in the test part", "1.2k", "0"} <= set(texts(figure))
    drawn(figure, tmp_path)


def test_gallery_takes_images_of_any_size_grey_or_rgb(tmp_path):
    images = [np.full(shape, 90, np.uint8) for shape in [(600, 900, 3), (1, 1), (3, 2000, 3), (40, 10, 3)]]
    figure = figures.gallery_figure(images, ["a", "b", "c", plots.mistake_caption("a", "b", 0.97)], 3)
    assert "a\n-> b 97%" in texts(figure)
    assert len(figure.axes) == 6
    drawn(figure, tmp_path)


def test_an_empty_gallery_says_so(tmp_path):
    figure = figures.gallery_figure([], [], title="Worst mistakes")
    assert "nothing to show" in texts(figure)
    drawn(figure, tmp_path)


def test_a_gallery_needs_a_caption_per_image():
    with pytest.raises(ValueError, match="0 captions for 1 images"):
        figures.gallery_figure([np.zeros((2, 2, 3), np.uint8)], [])


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0"),
        (999, "999"),
        (1000, "1.0k"),
        (9949, "9.9k"),
        (9950, "10k"),
        (999_499, "999k"),
        (999_500, "1.0M"),
    ],
)
def test_counts_take_four_characters_at_most(count, text):
    assert figures.short_count(count) == text


def test_the_same_figure_gives_the_same_bytes(tmp_path):
    for name in ("one.png", "two.png"):
        figures.save(figures.confusion_matrix_figure(confusion(3), ["a", "b", "c"]), tmp_path / name)
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()


def test_a_picture_that_cannot_be_written_is_a_storage_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="file"):
        figures.save(figures.gallery_figure([], []), tmp_path / "file" / "picture.png")


def test_no_state_shared_with_other_threads_is_touched():
    before = dict(matplotlib.rcParams)
    figures.confusion_matrix_figure(confusion(2), ["a", "b"])
    assert dict(matplotlib.rcParams) == before
    assert not Gcf.figs  # the figures that pyplot would keep alive


def test_of_epochs_equally_right_the_one_of_lowest_loss_is_marked():
    rows = [{**row, "val_acc": 1.0, "val_loss": loss} for row, loss in zip(history(3), (0.3, 0.1, 0.2), strict=True)]
    assert "best epoch (2)" in texts(plots.learning_curves_figure(rows))
