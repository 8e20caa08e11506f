"""The rule by which a new model replaces the champion: a paired bootstrap on the same test files."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.integer]


@dataclass(frozen=True, slots=True)
class Decision:
    """What was decided and why; the metrics are None when nothing could be compared."""

    promote: bool
    reason: str  # one sentence, for people
    accuracy_champion: float | None = None  # in [0, 1], on the files compared
    accuracy_challenger: float | None = None  # in [0, 1], on the files compared
    probability_better: float | None = None  # share of draws with the challenger more accurate
    falls: Mapping[str, float] = field(default_factory=dict)  # class -> recall lost, largest first
    n_compared: int = 0  # test files


@dataclass(frozen=True, slots=True)
class Rules:
    """When a challenger takes over."""

    class_margin: float  # recall a class may lose, in [0, 1]
    confidence: float  # share of the draws in which the challenger must be better, in (0.5, 1)
    seed: int = 0  # of the draws
    n_draws: int = 2000  # of the bootstrap, at least 1


def common_files(champion_train_digests: Collection[str], test_digests: Sequence[str]) -> NDArray[np.bool_]:
    """Return (N,) which test files are fair to compare on: those the champion was not trained on.

    Args:
        champion_train_digests: content digests of the champion's training files.
        test_digests: content digests of the N test files.
    """
    seen = set(champion_train_digests)
    return np.array([digest not in seen for digest in test_digests], dtype=bool)


def decide(
    champion_predicted: Ints | None,
    challenger_predicted: Ints,
    labels: Ints,
    class_names: Sequence[str],
    rules: Rules,
    *,
    champion_classes: Sequence[str] | None = None,
    mask: NDArray[np.bool_] | None = None,
) -> Decision:
    """Decide whether the challenger replaces the champion.

    It does when it is better with enough certainty (paired bootstrap on the same files) and no class loses
    more recall than allowed. A class without a file among those compared is not judged. Files are drawn as if
    independent of each other; frames of one recording are not, so the certainty looks higher than it is.

    Args:
        champion_predicted: (N,) class numbers in the order of `champion_classes`; None: no champion yet.
        challenger_predicted: (N,) class numbers in the order of `class_names`.
        labels: (N,) in the order of `class_names`.
        class_names: the challenger's.
        rules: margin and certainty.
        champion_classes: the champion's; None: the same in the same order.
        mask: (N,) which files to compare on, from `common_files`; None: all.

    Raises:
        ValueError: the arrays do not fit together.

    Source: Efron and Tibshirani 1993, An Introduction to the Bootstrap; Koehn 2004 (EMNLP), paired bootstrap.
    """
    if champion_predicted is None:
        return Decision(True, "promoted: there is no champion yet")
    theirs = list(class_names if champion_classes is None else champion_classes)
    if set(theirs) != set(class_names):
        return Decision(False, _classes_differ(theirs, class_names))
    used = np.ones(len(labels), dtype=bool) if mask is None else mask
    _check_lengths(len(labels), champion_predicted, challenger_predicted, used)
    translate = np.array([list(class_names).index(name) for name in theirs])
    old, new = translate[champion_predicted] == labels, challenger_predicted == labels
    return _decide_on(old[used], new[used], labels[used], class_names, rules, n_left_out=int((~used).sum()))


def _decide_on(
    old: NDArray[np.bool_],
    new: NDArray[np.bool_],
    labels: Ints,
    class_names: Sequence[str],
    rules: Rules,
    *,
    n_left_out: int,
) -> Decision:
    """Decide by which of the files compared the champion (`old`) and the challenger (`new`) answer rightly."""
    n_files = len(labels)
    if not n_files:
        left_out = f", {n_left_out} left out because the champion was trained on them" if n_left_out else ""
        return Decision(False, f"champion kept: there is no test file to compare on{left_out}")
    better = probability_better(old, new, seed=rules.seed, n_draws=rules.n_draws)
    falls = _recall_falls(old, new, labels, class_names)
    too_far = {name: fall for name, fall in falls.items() if fall > rules.class_margin + 1e-9}
    promote = better >= rules.confidence and not too_far
    accuracies = float(old.mean()), float(new.mean())
    compared = _comparison(accuracies, better, n_files, n_left_out, rules.n_draws)
    verdict = _verdict(better, rules.confidence, too_far, rules.class_margin)
    return Decision(promote, f"{verdict}; {compared}", *accuracies, better, falls=falls, n_compared=n_files)


def probability_better(
    champion_right: NDArray[np.bool_], challenger_right: NDArray[np.bool_], *, seed: int, n_draws: int
) -> float:
    """Return the share of bootstrap draws in which the challenger answers more files rightly.

    Files are drawn with replacement, the same for both. Only files that exactly one of them answers rightly
    move the difference, so it is enough to draw how many of either kind come up: one multinomial a draw.

    Args:
        champion_right, challenger_right: (N,) of the same files, N at least 1.
    """
    n_files = len(champion_right)
    gained = int((challenger_right & ~champion_right).sum())
    lost = int((champion_right & ~challenger_right).sum())
    shares = np.array([gained, lost, n_files - gained - lost]) / n_files
    draws = np.random.default_rng(seed).multinomial(n_files, shares, size=n_draws)  # (n_draws, 3)
    return float(np.mean(draws[:, 0] > draws[:, 1]))


def _recall_falls(
    old: NDArray[np.bool_], new: NDArray[np.bool_], labels: Ints, class_names: Sequence[str]
) -> dict[str, float]:
    n_classes = len(class_names)
    support = np.bincount(labels, minlength=n_classes)
    lost = np.bincount(labels, old, n_classes) - np.bincount(labels, new, n_classes)
    falls = {class_names[c]: float(lost[c] / support[c]) for c in range(n_classes) if lost[c] > 0}
    return dict(sorted(falls.items(), key=lambda item: -item[1]))


def _verdict(better: float, confidence: float, too_far: Mapping[str, float], class_margin: float) -> str:
    if better < confidence:
        return f"champion kept: the challenger must be better in {confidence:.1%} of the draws"
    if too_far:
        name, fall = next(iter(too_far.items()))
        others = f" and {len(too_far) - 1} more class(es)" if len(too_far) > 1 else ""
        return f"champion kept: the recall of {name!r}{others} falls by {fall:.3f}, allowed {class_margin:.3f}"
    return f"promoted: better, and no class loses more than {class_margin:.3f} of recall"


def _comparison(accuracies: tuple[float, float], better: float, n_files: int, n_left_out: int, n_draws: int) -> str:
    left_out = f" ({n_left_out} left out because the champion was trained on them)" if n_left_out else ""
    return (
        f"accuracy {accuracies[1]:.4f} against the champion's {accuracies[0]:.4f} on {n_files} test files"
        f"{left_out}, better in {better:.1%} of {n_draws} bootstrap draws"
    )


def _classes_differ(champion: Sequence[str], challenger: Sequence[str]) -> str:
    gone = sorted(set(champion) - set(challenger))
    extra = sorted(set(challenger) - set(champion))
    parts = [f"only the champion knows {', '.join(gone)}"] if gone else []
    parts += [f"only the challenger knows {', '.join(extra)}"] if extra else []
    return f"champion kept: the classes differ, {' and '.join(parts)}, so no accuracy can be compared"


def _check_lengths(n_files: int, champion: Ints, challenger: Ints, mask: NDArray[np.bool_]) -> None:
    if not n_files == len(champion) == len(challenger) == len(mask):
        raise ValueError(
            f"found {len(champion)} answers of the champion, {len(challenger)} of the challenger and a mask "
            f"of {len(mask)} for {n_files} labels, need one of each per file"
        )
