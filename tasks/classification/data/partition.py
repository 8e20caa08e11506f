"""Decides which images go to which subset; groups stay whole, and classes keep their ratios."""

import random
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

N_PARTS = 3
# A subset without a class costs more than any departure from the ratios, which costs less than 3 per class.
_EMPTY = 100.0
# All pairs are compared in quadratic time; with more groups than this, single moves come close enough.
_MAX_TO_SWAP = 150
_N_STARTS = 24


def part_sizes(n: int, shares: Sequence[float]) -> list[int]:
    """Return how many of `n` images each part should get: the ratios, rounded, and at least one each."""
    exact = [share * n for share in shares]
    sizes = [int(value + 1e-9) for value in exact]
    by_rest = sorted(range(len(exact)), key=lambda part: sizes[part] - exact[part])
    for part in by_rest[: n - sum(sizes)]:
        sizes[part] += 1
    for part in range(len(sizes)):
        if sizes[part] == 0:
            sizes[sizes.index(max(sizes))] -= 1
            sizes[part] = 1
    return sizes


def assign_groups(groups: Mapping[str, Mapping[str, int]], shares: Sequence[float], seed: int) -> dict[str, int]:
    """Return the part, as an index into `shares`, of every group.

    Classes that share no group are decided on their own, so that a new class leaves the others as they were.

    Args:
        groups: group -> class -> number of images; every class in at least as many groups as there are parts.
        shares: of each part, together 1.
        seed: same seed, same groups, same answer, whatever their order.
    """
    parts: dict[str, int] = {}
    for labels in _connected(groups):
        names = sorted(name for name, counts in groups.items() if not labels.isdisjoint(counts))
        columns = sorted(labels)
        sizes = np.array([[groups[name].get(label, 0) for label in columns] for name in names], dtype=np.int64)
        rng = random.Random(f"{seed}/{'/'.join(columns)}")
        parts.update(zip(names, _solve(sizes, shares, rng).tolist(), strict=True))
    return parts


def _connected(groups: Mapping[str, Mapping[str, int]]) -> list[set[str]]:
    """Return the classes in sets that have groups in common."""
    found: list[set[str]] = []
    for labels in sorted({tuple(sorted(counts)) for counts in groups.values()}):
        touching = [other for other in found if not other.isdisjoint(labels)]
        found = [other for other in found if other.isdisjoint(labels)]
        found.append(set(labels).union(*touching))
    return sorted(found, key=min)


def _solve(sizes: Ints, shares: Sequence[float], rng: random.Random) -> Ints:
    """Return the part of each group: the best of a few starts, each improved until nothing helps.

    Args:
        sizes: (groups, classes) number of images.
    """
    totals = sizes.sum(axis=0)
    targets = np.array([part_sizes(int(n), shares) for n in totals], dtype=np.int64)  # (classes, parts)
    all_single = bool((sizes.sum(axis=1) == 1).all())
    best: tuple[float, Ints] | None = None
    for _ in range(_N_STARTS if not all_single and len(sizes) <= _MAX_TO_SWAP else 1):
        parts = _fill(sizes, targets, rng)
        if not all_single:
            _improve(sizes, parts, targets)
        cost = float(_cost(_count(sizes, parts), targets, totals[:, None]).sum())
        if best is None or cost < best[0] - 1e-12:
            best = (cost, parts)
        if cost < 1e-12:
            break
    assert best is not None
    return best[1]


def _cost(counts: Ints, targets: Ints, totals: Ints) -> Floats:
    """Return the squared departure from the target as a share of the class, for each class and part."""
    cost: Floats = ((counts - targets) / totals) ** 2 + _EMPTY * (counts <= 0)
    return cost


def _count(sizes: Ints, parts: Ints) -> Ints:
    """Return (classes, parts) number of images."""
    return np.stack([sizes[parts == part].sum(axis=0) for part in range(N_PARTS)], axis=1)


def _fill(sizes: Ints, targets: Ints, rng: random.Random) -> Ints:
    """Give each group, in random order, to the part that lacks most; single images come last, to fill up."""
    order = rng.sample(range(len(sizes)), len(sizes))
    n_images = sizes.sum(axis=1).tolist()
    rest = [[float(value) for value in row] for row in targets]  # what each class still lacks in each part
    totals = [sum(row) for row in rest]
    parts = np.zeros(len(sizes), dtype=np.int64)
    for group in sorted(order, key=lambda g: n_images[g] == 1):
        owned = [(label, int(n)) for label, n in enumerate(sizes[group]) if n]
        gain = [sum(n * rest[label][part] / totals[label] ** 2 for label, n in owned) for part in range(N_PARTS)]
        parts[group] = part = gain.index(max(gain))
        for label, n in owned:
            rest[label][part] -= n
    return parts


def _improve(sizes: Ints, parts: Ints, targets: Ints) -> None:
    """Move one group, or swap two, in place, as long as the cost falls."""
    for _ in range(4 * len(sizes)):
        if not _move(sizes, parts, targets) and not (len(sizes) <= _MAX_TO_SWAP and _swap(sizes, parts, targets)):
            return


def _move(sizes: Ints, parts: Ints, targets: Ints) -> bool:
    """Make the best single move; say whether one helped."""
    totals = sizes.sum(axis=0)
    counts = _count(sizes, parts)
    now = _cost(counts, targets, totals[:, None]).sum(axis=0)  # (parts,)
    with_it = np.stack(
        [_cost(counts[:, p] + sizes, targets[:, p], totals).sum(axis=1) for p in range(N_PARTS)], axis=1
    )  # (groups, parts)
    without = _cost(counts.T[parts] - sizes, targets.T[parts], totals).sum(axis=1)  # (groups,)
    change = with_it - now + (without - now[parts])[:, None]
    change[np.arange(len(parts)), parts] = 0.0
    group, part = np.unravel_index(int(change.argmin()), change.shape)
    if change[group, part] > -1e-12:
        return False
    parts[group] = part
    return True


def _swap(sizes: Ints, parts: Ints, targets: Ints) -> bool:
    """Make the best swap of two groups; say whether one helped."""
    totals = sizes.sum(axis=0)
    counts = _count(sizes, parts)
    now = _cost(counts, targets, totals[:, None]).sum(axis=0)
    best = (-1e-12, -1, -1)
    for p, q in ((0, 1), (0, 2), (1, 2)):
        left, right = np.flatnonzero(parts == p), np.flatnonzero(parts == q)
        if not len(left) or not len(right):
            continue
        moved = sizes[right][None] - sizes[left][:, None]  # (left, right, classes)
        change = _cost(counts[:, p] + moved, targets[:, p], totals).sum(axis=2)
        change += _cost(counts[:, q] - moved, targets[:, q], totals).sum(axis=2) - now[p] - now[q]
        at = np.unravel_index(int(change.argmin()), change.shape)
        best = min(best, (float(change[at]), int(left[at[0]]), int(right[at[1]])))
    _, a, b = best
    if a < 0:
        return False
    parts[a], parts[b] = parts[b], parts[a]
    return True
