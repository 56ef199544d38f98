"""The LFW protocol against a naive triple loop; the ROC against its definition and scikit-learn."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rates_of_pairs import auc, equal_error_rate, tar_at_far
from sklearn.metrics import roc_auc_score, roc_curve
from sklearn.model_selection import KFold

from validation.protocol.figures import FIGURES, Curves, measured_from, why_not_measured
from validation.protocol.verification import (
    Verification,
    k_fold,
    k_fold_accuracy,
    pair_distances,
    roc,
    verify,
    verify_distances,
)


def naive_k_fold(distances: np.ndarray, same: np.ndarray, folds: int) -> tuple[float, float, float]:
    """The protocol as it is told: folds, thresholds, pairs."""
    thresholds = np.arange(0, 4, 0.01)
    accuracies, chosen = [], []
    for train, test in KFold(folds, shuffle=False).split(distances):
        best_correct, best_threshold = -1, -1.0
        for threshold in thresholds:
            correct = sum(int((distances[pair] < threshold) == same[pair]) for pair in train)
            if correct > best_correct:
                best_correct, best_threshold = correct, threshold
        correct = sum(int((distances[pair] < best_threshold) == same[pair]) for pair in test)
        accuracies.append(correct / len(test))
        chosen.append(best_threshold)
    return float(np.mean(accuracies)), float(np.std(accuracies)), float(np.mean(chosen))


@st.composite
def pairs(draw: st.DrawFn, min_size: int = 2, both_kinds: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Distances with many ties, some exactly on thresholds and on the ends of the range, and their kinds."""
    size = draw(st.integers(min_size, 35))
    on_thresholds = st.sampled_from([float(value) for value in np.arange(0, 4, 0.01)[::20]])
    anywhere = st.floats(0, 4)
    values = draw(st.lists(st.one_of(on_thresholds, on_thresholds, anywhere), min_size=1, max_size=6))
    distances = draw(st.lists(st.sampled_from([*values, 0.0, 4.0]), min_size=size, max_size=size))
    same = draw(st.lists(st.booleans(), min_size=size, max_size=size))
    if both_kinds:
        same[0], same[-1] = True, False
    return np.array(distances), np.array(same)


@settings(max_examples=25, deadline=None)
@given(pairs(min_size=10, both_kinds=False), st.sampled_from([2, 3, 10]))
def test_k_fold_equals_the_naive_loop(data: tuple[np.ndarray, np.ndarray], folds: int) -> None:
    distances, same = data
    assert k_fold_accuracy(distances, same, folds) == naive_k_fold(distances, same, folds)


def test_k_fold_equals_the_naive_loop_on_overlapping_kinds() -> None:
    generator = np.random.default_rng(0)
    same = generator.random(57) < 0.5
    distances = np.where(same, generator.normal(1.0, 0.5, 57), generator.normal(1.6, 0.4, 57)).clip(0, 4)
    result = k_fold_accuracy(distances, same)
    assert result == naive_k_fold(distances, same, 10)
    assert 0.5 < result[0] < 1
    assert result[1] > 0


@settings(max_examples=20, deadline=None)
@given(pairs(min_size=10, both_kinds=False), st.sampled_from([2, 3, 10]))
def test_decisions_are_those_of_each_folds_threshold(data: tuple[np.ndarray, np.ndarray], folds: int) -> None:
    distances, same = data
    result = k_fold(distances, same, folds)
    for fold, (_, test) in enumerate(KFold(folds, shuffle=False).split(distances)):
        for pair in test:
            assert result.correct[pair] == ((distances[pair] < result.thresholds[fold]) == same[pair])
        assert result.accuracies[fold] == pytest.approx(np.mean([result.correct[pair] for pair in test]))


def test_threshold_is_chosen_without_the_fold_that_is_counted() -> None:
    # Fold 0 contradicts the others: its own best threshold would make it right, theirs makes it wrong.
    same = np.array([True, False] * 10)
    distances = np.where(same, 0.5, 1.5)
    distances[:2] = [1.5, 0.5]
    accuracy, accuracy_std, threshold = k_fold_accuracy(distances, same)
    assert accuracy == pytest.approx(0.9)
    assert accuracy_std == pytest.approx(0.3)
    # The lowest of the best thresholds is the first step above 0.5, whichever fold is left out.
    assert threshold == pytest.approx(0.51)


@pytest.mark.parametrize("count", [0, 1, 9])
def test_fewer_pairs_than_folds(count: int) -> None:
    with pytest.raises(ValueError, match=f"{count} pairs, expected at least 10"):
        k_fold_accuracy(np.ones(count), np.ones(count, bool))


def test_one_fold_is_refused() -> None:
    with pytest.raises(ValueError, match="folds = 1, expected at least 2"):
        k_fold_accuracy(np.ones(10), np.ones(10, bool), folds=1)


@settings(max_examples=100, deadline=None)
@given(pairs())
def test_roc_is_what_its_thresholds_decide(data: tuple[np.ndarray, np.ndarray]) -> None:
    distances, same = data
    fmr, tmr, thresholds = roc(distances, same)
    for point, threshold in enumerate(thresholds):
        matches = distances < threshold
        assert fmr[point] == matches[~same].sum() / (~same).sum()
        assert tmr[point] == matches[same].sum() / same.sum()
    assert (fmr[0], tmr[0], fmr[-1], tmr[-1]) == (0, 0, 1, 1)
    assert thresholds.tolist() == [*sorted(set(distances.tolist())), np.inf]


@settings(max_examples=100, deadline=None)
@given(pairs())
def test_roc_and_auc_equal_scikit_learn(data: tuple[np.ndarray, np.ndarray]) -> None:
    distances, same = data
    fmr, tmr, _ = roc(distances, same)
    sklearn_fpr, sklearn_tpr, _ = roc_curve(same, -distances, drop_intermediate=False)
    np.testing.assert_allclose(fmr, sklearn_fpr)
    np.testing.assert_allclose(tmr, sklearn_tpr)
    assert auc(distances, same) == pytest.approx(roc_auc_score(same, -distances))


def naive_eer(distances: np.ndarray, same: np.ndarray) -> Fraction:
    """Walk the corners of the ROC in exact numbers; where FMR - FNMR changes sign, solve for its zero."""
    corners = []
    for threshold in [*sorted(set(distances.tolist())), np.inf]:
        matches = distances < threshold
        fmr = Fraction(int(matches[~same].sum()), int((~same).sum()))
        fnmr = Fraction(int((~matches)[same].sum()), int(same.sum()))
        corners.append((fmr, fnmr))
    for (fmr, fnmr), (next_fmr, next_fnmr) in pairwise(corners):
        if fmr <= fnmr and next_fmr >= next_fnmr:
            share = (fnmr - fmr) / ((fnmr - fmr) + (next_fmr - next_fnmr))
            return fmr + share * (next_fmr - fmr)
    raise AssertionError("FMR goes from 0 to 1 and FNMR from 1 to 0: they must meet")


@settings(max_examples=100, deadline=None)
@given(pairs())
def test_equal_error_rate(data: tuple[np.ndarray, np.ndarray]) -> None:
    assert equal_error_rate(*data) == pytest.approx(float(naive_eer(*data)), abs=1e-12)


def test_equal_error_rate_at_known_places() -> None:
    same = np.array([True, True, False, False])
    assert equal_error_rate(np.array([0.0, 1, 2, 3]), same) == 0  # apart
    assert equal_error_rate(np.array([2.0, 3, 0, 1]), same) == 1  # the wrong way round
    assert equal_error_rate(np.array([1.0, 1, 1, 1]), same) == 0.5  # all alike
    assert equal_error_rate(np.array([0.0, 2, 1, 3]), same) == 0.5  # one of two crosses


@settings(max_examples=60, deadline=None)
@given(pairs(), st.sampled_from([0.05, 0.1, 1 / 3, 0.5, 0.75, 1.0]), st.sampled_from([1, 3, 40]))
def test_tar_at_far_is_the_best_of_all_thresholds(data: tuple[np.ndarray, np.ndarray], far: float, copies: int) -> None:
    distances, same = (np.tile(array, copies) for array in data)
    impostors = int((~same).sum())
    limit = Fraction(far).limit_denominator(1000)
    if limit * impostors < 30:  # the rule of 30
        assert tar_at_far(distances, same, far) is None
        return
    rates = []
    for threshold in [*distances.tolist(), np.inf]:
        matches = distances < threshold
        if Fraction(int(matches[~same].sum()), impostors) <= limit:
            rates.append(matches[same].sum() / same.sum())
    assert tar_at_far(distances, same, far) == max(rates, default=0)


@pytest.mark.parametrize(("impostors", "expected"), [(2999, None), (3000, 0.75), (3001, 0.75)])
def test_tar_at_far_needs_thirty_false_matches(impostors: int, expected: float | None) -> None:
    # The 30 nearest impostors (0.2) may be accepted, the next (0.3) may not: genuine pairs below 0.3 count.
    distances = np.concatenate([[0.1, 0.2, 0.25, 0.3], np.full(30, 0.2), np.linspace(0.3, 4, impostors - 30)])
    same = np.arange(len(distances)) < 4
    assert tar_at_far(distances, same, 1e-2) == expected


@pytest.mark.parametrize(
    ("far", "needed"), [(1e-1, 300), (1e-2, 3_000), (1e-3, 30_000), (1e-4, 300_000), (0.07, 429), (1.0, 30)]
)
def test_the_reason_names_what_is_there_and_what_is_needed(far: float, needed: int) -> None:
    assert why_not_measured(far, needed) is None
    assert why_not_measured(far, needed - 1) == f"{needed - 1:,} impostor pairs, {needed:,} needed"
    if needed * far == pytest.approx(30):
        assert measured_from(needed) == pytest.approx(far)


def test_tar_at_far_counts_exactly_where_far_is_no_binary_fraction() -> None:
    # 0.55 * 100 is 55.00000000000001 and 0.58 * 100 is 57.99999999999999 in binary
    for far, allowed in ((0.55, 55), (0.58, 58)):
        impostor = np.arange(100) / 100 + 0.005
        genuine = np.arange(100) / 100
        distances, same = np.concatenate([genuine, impostor]), np.arange(200) < 100
        assert far * 100 != allowed
        # `allowed` impostors are accepted by thresholds up to the next one's distance
        assert tar_at_far(distances, same, far) == (genuine < impostor[allowed]).mean()


@pytest.mark.parametrize("function", [roc, auc, equal_error_rate, lambda d, s: tar_at_far(d, s, 0.1)])
@pytest.mark.parametrize("kind", [True, False])
def test_pairs_of_one_kind(function: Callable[[np.ndarray, np.ndarray], object], kind: bool) -> None:
    with pytest.raises(ValueError, match="expected some of each"):
        function(np.ones(3), np.full(3, kind))


def test_other_shapes_and_types_of_pairs() -> None:
    for distances, same in (
        (np.ones(10), np.ones(11, bool)),
        (np.ones(10), np.ones(10)),
        (np.ones((10, 1)), np.ones((10, 1), bool)),
    ):
        with pytest.raises(ValueError, match=r"expected \(n,\) and \(n,\) bool"):
            k_fold_accuracy(distances, same)
    with pytest.raises(ValueError, match="distance 1 is not finite"):
        roc(np.array([1.0, np.nan, 2.0]), np.array([True, False, True]))


def unit_rows(count: int, size: int, seed: int = 0) -> np.ndarray:
    rows = np.random.default_rng(seed).normal(size=(count, size)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_pair_distance_is_two_minus_two_cosines() -> None:
    rows = unit_rows(20, 16)
    expected = [2 - 2 * float(rows[2 * pair] @ rows[2 * pair + 1]) for pair in range(10)]
    np.testing.assert_allclose(pair_distances(rows), expected, atol=1e-5)


def test_pair_distance_at_known_angles() -> None:
    angles = np.radians([0, 0, 0, 60, 0, 90, 10, 190])
    rows = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    np.testing.assert_allclose(pair_distances(rows), [0, 1, 2, 4], atol=1e-12)


def test_verify_puts_the_figures_together() -> None:
    rows = unit_rows(1260, 8)
    same = np.arange(630) % 2 == 0
    rows[1::2][same] = rows[0::2][same] + 1.5 * rows[1::2][same]
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    distances = np.square(rows[0::2].astype(np.float64) - rows[1::2]).sum(axis=1)
    accuracy, accuracy_std, threshold = k_fold_accuracy(distances, same)
    result = verify(rows, same)
    assert result == Verification(
        {
            "accuracy": accuracy,
            "accuracy_std": accuracy_std,
            "auc": auc(distances, same),
            "eer": equal_error_rate(distances, same),
            "tar_at_far_1e-1": tar_at_far(distances, same, 0.1),
            "tar_at_far_1e-2": None,
            "tar_at_far_1e-3": None,
            "tar_at_far_1e-4": None,
            "threshold": threshold,
        },
        {
            "tar_at_far_1e-2": "315 impostor pairs, 3,000 needed",
            "tar_at_far_1e-3": "315 impostor pairs, 30,000 needed",
            "tar_at_far_1e-4": "315 impostor pairs, 300,000 needed",
        },
    )
    np.testing.assert_array_equal(result.correct, k_fold(distances, same).correct)
    assert result.values["tar_at_far_1e-1"] is not None
    assert 0.7 < result.accuracy < 1
    assert verify(rows, same, folds=5).accuracy == k_fold_accuracy(distances, same, 5)[0] != accuracy


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_embedding_that_is_not_finite(value: float) -> None:
    rows = unit_rows(20, 4)
    rows[13, 2] = value
    with pytest.raises(ValueError, match=r"embedding 13 \(1 of 20 rows\) is not finite"):
        verify(rows, np.arange(10) < 5)


def test_embedding_that_is_not_of_unit_length() -> None:
    rows = unit_rows(20, 4)
    verify(rows.astype(np.float16), np.arange(10) < 5)  # rounding is let pass
    rows[7] *= 2
    with pytest.raises(ValueError, match="embedding 7 has length 2, expected 1"):
        verify(rows, np.arange(10) < 5)


@pytest.mark.parametrize("shape", [(19, 4), (20,), (20, 2, 2)])
def test_embeddings_of_another_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected \(N, D\) with N even"):
        verify(np.zeros(shape, np.float32), np.arange(10) < 5)


def test_verify_of_too_few_pairs() -> None:
    with pytest.raises(ValueError, match="9 pairs, expected at least 10"):
        verify(unit_rows(18, 4), np.arange(9) < 5)


# What must not change a result, and what must turn it round.


@st.composite
def labelled_rows(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Unit embeddings (2n, 4) of n >= 20 pairs and their kinds, overlapping."""
    count, seed = draw(st.integers(20, 60)), draw(st.integers(0, 2**32 - 1))
    rows = unit_rows(2 * count, 4, seed)
    same = np.random.default_rng(seed).random(count) < 0.5
    same[:2] = True, False
    rows[1::2][same] += 1.5 * rows[0::2][same]
    return rows / np.linalg.norm(rows, axis=1, keepdims=True), same


@settings(max_examples=15, deadline=None)
@given(labelled_rows())
def test_swapping_the_images_of_pairs_changes_nothing(data: tuple[np.ndarray, np.ndarray]) -> None:
    rows, same = data
    swapped = rows.reshape(-1, 2, rows.shape[1])[:, ::-1].reshape(rows.shape)
    assert verify(swapped, same) == verify(rows, same)


@settings(max_examples=15, deadline=None)
@given(labelled_rows(), st.integers(0, 2**32 - 1))
def test_order_within_folds_changes_nothing(data: tuple[np.ndarray, np.ndarray], seed: int) -> None:
    rows, same = data
    rng = np.random.default_rng(seed)
    order = np.concatenate([rng.permutation(fold) for fold in np.array_split(np.arange(len(same)), 10)])
    permuted = rows.reshape(len(same), 2, -1)[order].reshape(rows.shape)
    assert verify(permuted, same[order]) == verify(rows, same)


@settings(max_examples=15, deadline=None)
@given(labelled_rows(), st.integers(0, 2**32 - 1))
def test_order_of_folds_changes_no_rate(data: tuple[np.ndarray, np.ndarray], seed: int) -> None:
    distances, same = pair_distances(data[0])[:20], data[1][:20]  # 10 folds of 2
    order = np.random.default_rng(seed).permutation(10)
    folds = np.arange(20).reshape(10, 2)[order].ravel()
    before, after = (verify_distances(distances[chosen], same[chosen]) for chosen in (np.arange(20), folds))
    assert after.accuracy == pytest.approx(before.accuracy)
    of_curve = [key for key, figure in FIGURES.items() if figure.basis is Curves]
    assert [after.values[key] for key in of_curve] == [before.values[key] for key in of_curve]


@settings(max_examples=15, deadline=None)
@given(labelled_rows(), st.sampled_from([2.0**-4, 0.5, 2.0, 2.0**10]))
def test_length_before_normalising_changes_nothing(data: tuple[np.ndarray, np.ndarray], scale: float) -> None:
    rows, same = data

    def normalised(array: np.ndarray) -> np.ndarray:
        return array / np.linalg.norm(array, axis=1, keepdims=True)

    assert verify(normalised(scale * rows), same) == verify(normalised(rows), same)


@settings(max_examples=15, deadline=None)
@given(labelled_rows())
def test_turning_all_embeddings_changes_nothing(data: tuple[np.ndarray, np.ndarray]) -> None:
    rows, same = data
    permuted = np.ascontiguousarray(-rows[:, [2, 0, 3, 1]])  # an orthogonal map that float arithmetic does exactly
    np.testing.assert_allclose(pair_distances(permuted), pair_distances(rows), atol=1e-12)
    assert verify(permuted, same).accuracy == verify(rows, same).accuracy


@settings(max_examples=25, deadline=None)
@given(pairs())
def test_rates_that_depend_on_the_order_of_distances_alone(data: tuple[np.ndarray, np.ndarray]) -> None:
    distances, same = data
    ranks = np.unique(distances, return_inverse=True)[1].astype(float)
    for figure in (auc, equal_error_rate):
        assert figure(ranks, same) == figure(distances, same)
    tiled = np.tile(same, 60)  # enough impostors
    rate = tar_at_far(np.tile(ranks, 60), tiled, 0.5)
    assert rate is not None
    assert rate == tar_at_far(np.tile(distances, 60), tiled, 0.5)


@settings(max_examples=25, deadline=None)
@given(pairs())
def test_calling_genuine_impostor_turns_the_roc_round(data: tuple[np.ndarray, np.ndarray]) -> None:
    distances, same = data
    assert auc(distances, ~same) == pytest.approx(1 - auc(distances, same))
    assert equal_error_rate(4 - distances, ~same) == pytest.approx(equal_error_rate(distances, same), abs=1e-12)


@settings(max_examples=25, deadline=None)
@given(pairs(), st.integers(2, 5))
def test_every_pair_several_times_changes_no_rate(data: tuple[np.ndarray, np.ndarray], copies: int) -> None:
    distances, same = data
    repeated = np.tile(distances, copies), np.tile(same, copies)
    assert auc(*repeated) == pytest.approx(auc(*data))
    assert equal_error_rate(*repeated) == pytest.approx(equal_error_rate(*data))
