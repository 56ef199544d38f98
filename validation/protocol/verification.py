"""Accuracy of same-or-different decisions on pairs: the LFW protocol, and the ROC with its figures.

A pair is called one person when the squared L2 distance of its unit embeddings is below a threshold. The LFW
protocol (Huang et al., "Labeled Faces in the Wild", 2007) chooses the threshold on nine folds and counts on
the tenth. FMR and FNMR are those of ISO/IEC 19795-1; papers call FMR also FAR, and 1 - FNMR, the true match
rate (TMR), TAR.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from validation.protocol.figures import FIGURES, Curves, Folds

THRESHOLDS = np.arange(0, 4, 0.01)
"""(400,) the thresholds that the protocol tries, in squared L2 distance of unit vectors (0 to 4)."""

_NORM_TOLERANCE = 1e-2  # lets half precision pass


@dataclass(frozen=True)
class Verification:
    """How well embeddings tell pairs of one person from pairs of two.

    Attributes:
        values: the figures by key, see `FIGURES`; None for one that the pairs are too few to measure.
        missing: the reason for each None, by key.
        correct: (n,) bool; whether the LFW protocol decides pair k rightly.
    """

    values: dict[str, float | None]
    missing: dict[str, str] = field(default_factory=dict)
    correct: np.ndarray = field(default_factory=lambda: np.zeros(0, bool), compare=False)

    @property
    def accuracy(self) -> float:
        """Mean over the folds, 0 to 1."""
        return self.values["accuracy"] or 0.0

    @property
    def accuracy_std(self) -> float:
        """Standard deviation over the folds (divided by their number)."""
        return self.values["accuracy_std"] or 0.0

    @property
    def threshold(self) -> float:
        """Mean of the folds' thresholds, squared L2 distance."""
        return self.values["threshold"] or 0.0


@dataclass(frozen=True, eq=False)
class KFold:
    """What the LFW protocol decides.

    Attributes:
        accuracies: (folds,) on each fold, 0 to 1.
        thresholds: (folds,) chosen on the other folds, squared L2 distance.
        correct: (n,) bool; whether pair k is decided rightly at the threshold of its fold.
    """

    accuracies: np.ndarray
    thresholds: np.ndarray
    correct: np.ndarray


def verify(embeddings: np.ndarray, same: np.ndarray, folds: int = 10) -> Verification:
    """Score embeddings by the LFW protocol and the ROC.

    Args:
        embeddings: (N, D) of unit length in row order; rows 2k and 2k + 1 are pair k.
        same: (N/2,) bool, whether pair k shows one person; both kinds must occur.
        folds: number of contiguous folds, at least 2.

    Raises:
        ValueError: a wrong shape or dtype, a value that is not finite, a row that is not of unit length,
            fewer pairs than folds, or pairs of one kind only.
    """
    return verify_distances(pair_distances(embeddings), same, folds)


def verify_distances(distances: np.ndarray, same: np.ndarray, folds: int = 10) -> Verification:
    """`verify` for the distances (n,) of pairs."""
    fold_results = k_fold(distances, same, folds)
    curves = curves_of(distances, same)
    draws = {Folds: Folds(fold_results.accuracies[None], fold_results.thresholds[None]), Curves: curves}
    reasons = {key: figure.why_not_measured(curves.impostor_pairs) for key, figure in FIGURES.items()}
    return Verification(
        values={
            key: float(figure.compute(draws[figure.basis])[0]) if reasons[key] is None else None
            for key, figure in FIGURES.items()
        },
        missing={key: reason for key, reason in reasons.items() if reason is not None},
        correct=fold_results.correct,
    )


def check_pairs(same: np.ndarray, name: str, folds: int = 10) -> None:
    """Make sure, before long work, that the pairs (n,) bool of a set can be scored.

    Raises:
        ValueError: fewer pairs than folds, or pairs of one kind only; the message begins with `name`.
    """
    if len(same) < folds:
        raise ValueError(f"{name}: {len(same)} pairs, expected at least {folds}, one a fold: use a larger set")
    if same.all() or not same.any():
        kind = "one person" if same[0] else "two people"
        raise ValueError(f"{name}: all {len(same)} pairs are of {kind}, expected both kinds: use another set")


def pair_distances(embeddings: np.ndarray) -> np.ndarray:
    """Squared L2 distances (N/2,) float64 of the pairs of rows 2k and 2k + 1 of unit embeddings (N, D).

    Raises:
        ValueError: N is odd, a value is not finite, or a row is not of unit length.
    """
    if embeddings.ndim != 2 or len(embeddings) % 2:
        raise ValueError(f"embeddings are {embeddings.shape}, expected (N, D) with N even: two rows a pair")
    finite = np.isfinite(embeddings).all(axis=1)
    if not finite.all():
        row, count = int(np.argmin(finite)), int((~finite).sum())
        raise ValueError(
            f"embedding {row} ({count} of {len(finite)} rows) is not finite: the network or its input is "
            f"broken; lower the learning rate or load another checkpoint"
        )
    exact = embeddings.astype(np.float64)
    norms = np.linalg.norm(exact, axis=1)
    off = np.abs(norms - 1) > _NORM_TOLERANCE
    if off.any():
        row = int(np.argmax(off))
        raise ValueError(f"embedding {row} has length {norms[row]:.6g}, expected 1: normalise the embeddings")
    return np.square(exact[0::2] - exact[1::2]).sum(axis=1)


def k_fold_accuracy(distances: np.ndarray, same: np.ndarray, folds: int = 10) -> tuple[float, float, float]:
    """Mean and standard deviation over the folds of `k_fold`'s accuracies (0 to 1), and its mean threshold."""
    result = k_fold(distances, same, folds)
    return float(result.accuracies.mean()), float(result.accuracies.std()), float(result.thresholds.mean())


def k_fold(distances: np.ndarray, same: np.ndarray, folds: int = 10) -> KFold:
    """Decide each fold at the threshold that is best on the others.

    The folds are contiguous, and the first n % folds have a pair more. Of equally good thresholds the lowest
    is taken.

    Args:
        distances: (n,) squared L2.
        same: (n,) bool.
        folds: at least 2.

    Raises:
        ValueError: shapes or dtypes, fewer than 2 folds, or fewer pairs than folds.
    """
    _check_pairs(distances, same)
    if folds < 2:
        raise ValueError(f"folds = {folds}, expected at least 2: one to count on, one to choose the threshold")
    if len(distances) < folds:
        raise ValueError(f"{len(distances)} pairs, expected at least {folds}, one a fold: use a larger set")
    fold_distances, fold_same = np.array_split(distances, folds), np.array_split(same, folds)
    correct = np.array([_correct_counts(*fold) for fold in zip(fold_distances, fold_same, strict=True)])
    sizes = np.array([len(fold) for fold in fold_same])  # correct is (folds, 400)
    best = np.argmax(correct.sum(axis=0) - correct, axis=1)  # on all the other folds; the first of ties
    thresholds = THRESHOLDS[best]
    return KFold(
        accuracies=correct[np.arange(folds), best] / sizes,
        thresholds=thresholds,
        correct=(distances < np.repeat(thresholds, sizes)) == same,
    )


def roc(distances: np.ndarray, same: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Receiver operating characteristic: one point for each decision that some threshold makes.

    Args:
        distances: (n,) squared L2.
        same: (n,) bool; both kinds must occur.

    Returns:
        False match rate, true match rate, threshold, each (k + 1,) for k distinct distances, rising from
        (0, 0) to (1, 1). A pair matches when distance < threshold, so the last threshold is infinite.

    Raises:
        ValueError: shapes or dtypes, or pairs of one kind only.
    """
    curves = curves_of(distances, same)
    return curves.fmr[0], curves.tmr[0], _roc_thresholds(distances)


def curves_of(distances: np.ndarray, same: np.ndarray) -> Curves:
    """The ROC of the pairs themselves; arguments and errors as `roc`."""
    genuine, impostor = _sorted_kinds(distances, same)
    thresholds = _roc_thresholds(distances)
    true, false = (np.searchsorted(kind, thresholds, side="left")[None] for kind in (genuine, impostor))
    return Curves(true, false, len(genuine), len(impostor))


def _roc_thresholds(distances: np.ndarray) -> np.ndarray:
    return np.append(np.unique(distances), np.inf).astype(np.float64)


def _check_pairs(distances: np.ndarray, same: np.ndarray) -> None:
    if distances.ndim != 1 or same.shape != distances.shape or same.dtype != np.bool_:
        raise ValueError(
            f"distances are {distances.shape} and same {same.shape} {same.dtype}, expected (n,) and (n,) "
            f"bool: one entry of each for a pair"
        )
    if not np.isfinite(distances).all():
        raise ValueError(f"distance {int(np.argmin(np.isfinite(distances)))} is not finite")


def _sorted_kinds(distances: np.ndarray, same: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The sorted distances of genuine and of impostor pairs."""
    _check_pairs(distances, same)
    genuine, impostor = np.sort(distances[same]), np.sort(distances[~same])
    if not len(genuine) or not len(impostor):
        raise ValueError(f"{len(genuine)} genuine and {len(impostor)} impostor pairs, expected some of each")
    return genuine, impostor


def _correct_counts(distances: np.ndarray, same: np.ndarray) -> np.ndarray:
    """How many pairs each threshold decides rightly, (400,) int64."""
    genuine, impostor = np.sort(distances[same]), np.sort(distances[~same])
    accepted = np.searchsorted(genuine, THRESHOLDS, side="left")  # distance < threshold
    refused = len(impostor) - np.searchsorted(impostor, THRESHOLDS, side="left")
    return accepted + refused
