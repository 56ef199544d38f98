"""Confidence intervals of verification rates: the percentile bootstrap over pairs (Efron, 1979).

Pairs are drawn with replacement, genuine and impostor pairs separately, as many as there are, and each figure is
computed again from what was drawn. The interval goes from the 2.5th to the 97.5th percentile of these figures.

For the accuracy, pairs are drawn within their fold, and the thresholds are chosen anew: the interval covers the whole
protocol. Redrawing the decisions alone would leave out that a threshold is chosen, and be too narrow. The standard
deviation over the folds measures something else: how much folds differ.

Limits: pairs that share an image or a person are not independent, so that with few people the true interval is wider;
and errors that never occurred cannot be drawn, so that a rate of exactly 0 or 1 has an interval of zero width.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from validation.protocol.figures import FIGURES, Curves, Folds
from validation.protocol.verification import THRESHOLDS

Interval = tuple[float, float]
"""Lower and upper end."""

LEVEL = 0.95
_VALUES_AT_ONCE = 1_000_000  # bounds the memory: some 8 MB an array


Intervals = dict[str, Interval | None]
"""95 % intervals of figures by key; None for a figure that is not measured."""


def bootstrap(
    distances: np.ndarray, same: np.ndarray, resamples: int = 1000, seed: int = 0, folds: int = 10
) -> Intervals:
    """Compute the intervals of the figures of `verify_distances`.

    The order of pairs within a fold makes no difference.

    Args:
        distances: (n,) squared L2.
        same: (n,) bool; both kinds must occur.
        resamples: number of draws, at least 1.
        seed: of the draws.
        folds: of the protocol.

    Raises:
        ValueError: fewer than 1 resample.
    """
    if resamples < 1:
        raise ValueError(f"resamples = {resamples}, expected at least 1")
    impostor_pairs = int((~same).sum())
    resampled = {key: figure for key, figure in FIGURES.items() if figure.has_interval}
    measured = {key: figure for key, figure in resampled.items() if figure.why_not_measured(impostor_pairs) is None}
    draws = (
        (Folds, resampled_folds(distances, same, folds, resamples, np.random.default_rng([seed, 0]))),
        (Curves, resampled_curves(distances, same, resamples, np.random.default_rng([seed, 1]))),
    )
    values: dict[str, list[np.ndarray]] = {key: [] for key in measured}
    for basis, chunks in draws:
        for chunk in chunks:
            for key, figure in measured.items():
                if figure.basis is basis:
                    values[key].append(figure.compute(chunk))
    return {key: _interval(np.concatenate(values[key])) if key in measured else None for key in resampled}


def resampled_folds(
    distances: np.ndarray, same: np.ndarray, folds: int, resamples: int, rng: np.random.Generator
) -> Iterator[Folds]:
    """Yield the results of the LFW protocol on all resamples, in chunks."""
    # A pair matches at threshold t from its bin on: THRESHOLDS[bin - 1] <= distance < THRESHOLDS[bin].
    bins = np.searchsorted(THRESHOLDS, distances, side="right")
    fold_bins, fold_same = np.array_split(bins, folds), np.array_split(same, folds)
    for count in _chunks(resamples, max(len(distances), 2 * folds * len(THRESHOLDS))):
        correct = np.empty((folds, count, len(THRESHOLDS)), np.int64)
        for fold, (own_bins, kinds) in enumerate(zip(fold_bins, fold_same, strict=True)):
            accepted = _draw_counts(own_bins[kinds], len(THRESHOLDS) + 1, count, rng).cumsum(axis=1)
            wrong = _draw_counts(own_bins[~kinds], len(THRESHOLDS) + 1, count, rng).cumsum(axis=1)
            correct[fold] = (accepted + (~kinds).sum() - wrong)[:, :-1]
        best = np.argmax(correct.sum(axis=0) - correct, axis=2)  # (folds, count); the first of ties
        right = np.take_along_axis(correct, best[..., None], axis=2)[..., 0]
        sizes = np.array([len(kinds) for kinds in fold_same])
        yield Folds((right / sizes[:, None]).T, THRESHOLDS[best].T)


def resampled_curves(
    distances: np.ndarray, same: np.ndarray, resamples: int, rng: np.random.Generator
) -> Iterator[Curves]:
    """Yield the ROCs of all resamples, in chunks."""
    levels, place = np.unique(distances, return_inverse=True)
    genuine, impostor = place[same], place[~same]
    for count in _chunks(resamples, max(len(levels), len(genuine), len(impostor))):
        # Number of matches when the threshold lies just above level j - 1; (count, levels + 1)
        true = _from_zero(_draw_counts(genuine, len(levels), count, rng))
        false = _from_zero(_draw_counts(impostor, len(levels), count, rng))
        yield Curves(true, false, len(genuine), len(impostor))


def _draw_counts(values: np.ndarray, levels: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """(count, levels) int64: how often each level 0..levels-1 is drawn in each of `count` resamples of `values`."""
    if not len(values):  # a fold may lack one kind
        return np.zeros((count, levels), np.int64)
    drawn = np.sort(values)[rng.integers(0, len(values), (count, len(values)))]
    offset = levels * np.arange(count)[:, None]
    return np.bincount((drawn + offset).ravel(), minlength=count * levels).reshape(count, levels)


def _from_zero(counts: np.ndarray) -> np.ndarray:
    """Running sums along the rows, with a 0 before them."""
    return np.pad(counts.cumsum(axis=1), ((0, 0), (1, 0)))


def _chunks(total: int, size: int) -> list[int]:
    """`total` split so that a chunk of resamples holds about `_VALUES_AT_ONCE` values of `size` each."""
    most = max(1, _VALUES_AT_ONCE // size)
    return [most] * (total // most) + ([total % most] if total % most else [])


def _interval(values: np.ndarray) -> Interval:
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
