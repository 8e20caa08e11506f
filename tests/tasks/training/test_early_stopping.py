"""The best epoch is the first of the best score, and a training ends when none has been better for long enough."""

from tasks.training.early_stopping import EarlyStopping


def taken(stopping, scores):
    return [stopping.is_best(epoch, score) for epoch, score in enumerate(scores, 1)]


def test_the_second_number_decides_where_the_first_is_the_same():
    stopping = EarlyStopping(0)
    assert taken(stopping, [(0.5, -1.0), (0.5, -0.5), (0.5, -0.5), (0.4, 0.0)]) == [True, True, False, False]
    assert (stopping.best, stopping.best_epoch, stopping.stopped) == ((0.5, -0.5), 2, False)


def test_patience_counts_epochs_since_the_best():
    stopping = EarlyStopping(2)
    taken(stopping, [(0.5, 0.0), (0.4, 0.0), (0.6, 0.0), (0.1, 0.0)])
    assert not stopping.stopped
    stopping.is_best(5, (0.6, 0.0))
    assert stopping.stopped
    assert stopping.reason == "stopped early: no better epoch since 3 (patience 2)"
