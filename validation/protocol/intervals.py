"""Confidence intervals of verification rates: the percentile bootstrap over pairs (Efron, 1979).

Pairs are drawn with replacement, genuine and impostor pairs separately, as many as there are, and each figure is
computed again from what was drawn. The interval goes from the 2.5th to the 97.5th percentile of these figures.

For the accuracy, pairs are drawn within their fold, and the thresholds are chosen anew: the interval covers the whole
protocol. Redrawing the decisions alone would leave out that a threshold is chosen, and be too narrow. The standard
deviation over the folds tells something else, how much folds differ.

What the intervals do not know: pairs that share an image or a person are not independent, so with few people the
truth is wider; and errors that never occurred cannot be drawn, so a rate of exactly 0 or 1 keeps an interval of no
width.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from validation.protocol.verification import REPORTED_FARS, THRESHOLDS, allowed_false_matches, why_not_measured

Interval = tuple[float, float]
"""Lower and upper end."""

LEVEL = 0.95
_VALUES_AT_ONCE = 1_000_000  # bounds the memory: some 8 MB an array


@dataclass(frozen=True)
class Intervals:
    """95 % intervals of the rates of a `Verification`; None where it has none."""

    accuracy: Interval
    auc: Interval
    eer: Interval
    tar_at_far: dict[str, Interval | None]


def bootstrap(
    distances: np.ndarray, same: np.ndarray, resamples: int = 1000, seed: int = 0, folds: int = 10
) -> Intervals:
    """Intervals of the figures of `verify_distances`.

    The order of pairs within a fold makes no difference.

    Args:
        distances: (n,) squared L2.
        same: (n,) bool; both kinds must occur.
        resamples: how often to draw, at least 1.
        seed: of the draws.
        folds: of the protocol.

    Raises:
        ValueError: fewer than 1 resample.
    """
    if resamples < 1:
        raise ValueError(f"resamples = {resamples}, expected at least 1")
    accuracies = resampled_accuracies(distances, same, folds, resamples, np.random.default_rng([seed, 0]))
    rates = resampled_rates(distances, same, resamples, np.random.default_rng([seed, 1]))
    return Intervals(
        accuracy=_interval(accuracies),
        auc=_interval(rates["auc"]),
        eer=_interval(rates["eer"]),
        tar_at_far={name: _interval(rates[name]) if name in rates else None for name in REPORTED_FARS},
    )


def resampled_accuracies(
    distances: np.ndarray, same: np.ndarray, folds: int, resamples: int, rng: np.random.Generator
) -> np.ndarray:
    """(resamples,) the LFW protocol's accuracy of each resample."""
    # A pair matches at threshold t from its bin on: THRESHOLDS[bin - 1] <= distance < THRESHOLDS[bin].
    bins = np.searchsorted(THRESHOLDS, distances, side="right")
    fold_bins, fold_same = np.array_split(bins, folds), np.array_split(same, folds)
    out = []
    for count in _chunks(resamples, max(len(distances), 2 * folds * len(THRESHOLDS))):
        correct = np.empty((folds, count, len(THRESHOLDS)), np.int64)
        for fold, (found, kinds) in enumerate(zip(fold_bins, fold_same, strict=True)):
            accepted = _draw_counts(found[kinds], len(THRESHOLDS) + 1, count, rng).cumsum(axis=1)
            wrong = _draw_counts(found[~kinds], len(THRESHOLDS) + 1, count, rng).cumsum(axis=1)
            correct[fold] = (accepted + (~kinds).sum() - wrong)[:, :-1]
        best = np.argmax(correct.sum(axis=0) - correct, axis=2)  # (folds, count); the first of ties
        right = np.take_along_axis(correct, best[..., None], axis=2)[..., 0]
        sizes = np.array([len(kinds) for kinds in fold_same])
        out.append((right / sizes[:, None]).mean(axis=0))
    return np.concatenate(out)


def resampled_rates(
    distances: np.ndarray, same: np.ndarray, resamples: int, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """(resamples,) of "auc", "eer" and, by the name of its FAR, of each TAR that is measured."""
    levels, place = np.unique(distances, return_inverse=True)
    genuine, impostor = place[same], place[~same]
    allowed = {
        name: allowed_false_matches(far, len(impostor))
        for name, far in REPORTED_FARS.items()
        if why_not_measured(far, len(impostor)) is None
    }
    chunks = []
    for count in _chunks(resamples, max(len(levels), len(genuine), len(impostor))):
        # Number of matches when the threshold lies just above level j - 1; (count, levels + 1)
        true = _from_zero(_draw_counts(genuine, len(levels), count, rng))
        false = _from_zero(_draw_counts(impostor, len(levels), count, rng))
        tmr, fmr = true / len(genuine), false / len(impostor)
        found = {"auc": np.trapezoid(tmr, fmr, axis=1), "eer": _equal_error_rates(fmr, tmr)}
        for name, most in allowed.items():
            found[name] = _at(tmr, (false <= most).sum(axis=1) - 1)
        chunks.append(found)
    return {name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]}


def _equal_error_rates(fmr: np.ndarray, tmr: np.ndarray) -> np.ndarray:
    """(R,) from curves (R, k): `equal_error_rate` for each."""
    gap = fmr + tmr - 1
    after = np.argmax(gap >= 0, axis=1)
    low, high = _at(gap, after - 1), _at(gap, after)
    low_fmr, high_fmr = _at(fmr, after - 1), _at(fmr, after)
    return low_fmr - low / (high - low) * (high_fmr - low_fmr)


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


def _at(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """rows[r, columns[r]] for each r."""
    return np.take_along_axis(rows, columns[:, None], axis=1)[:, 0]


def _chunks(total: int, size: int) -> list[int]:
    """`total` split so that a chunk of resamples holds about `_VALUES_AT_ONCE` values of `size` each."""
    most = max(1, _VALUES_AT_ONCE // size)
    return [most] * (total // most) + ([total % most] if total % most else [])


def _interval(values: np.ndarray) -> Interval:
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
