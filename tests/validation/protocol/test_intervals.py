"""The bootstrap against one that draws, sorts and counts pair by pair; what it must and must not depend on."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest
from rates_of_pairs import auc, equal_error_rate, tar_at_far

from validation.protocol import intervals
from validation.protocol.figures import FIGURES, Curves, Folds, area, equal_error_rates, true_accept_rates
from validation.protocol.intervals import bootstrap, resampled_curves, resampled_folds
from validation.protocol.verification import k_fold_accuracy, verify_distances


def overlapping(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    same = np.arange(count) % 2 == 0
    distances = np.where(same, rng.normal(1.0, 0.4, count), rng.normal(1.8, 0.3, count)).clip(0, 4)
    return np.round(distances, 2), same  # with ties, and on the thresholds


def test_rates_are_those_of_the_drawn_pairs() -> None:
    distances, same = overlapping(640)
    (curves,) = resampled_curves(distances, same, 7, np.random.default_rng(3))
    found = {"auc": area(curves), "eer": equal_error_rates(curves), "1e-1": true_accept_rates(curves, 0.1)}
    rng = np.random.default_rng(3)  # draws all genuine pairs, then all impostor pairs, from their sorted distances
    genuine = np.sort(distances[same])[rng.integers(0, 320, (7, 320))]
    impostor = np.sort(distances[~same])[rng.integers(0, 320, (7, 320))]
    kinds = np.arange(640) < 320
    for resample in range(7):
        drawn = np.concatenate([genuine[resample], impostor[resample]])
        assert found["auc"][resample] == pytest.approx(auc(drawn, kinds))
        assert found["eer"][resample] == pytest.approx(equal_error_rate(drawn, kinds))
        assert found["1e-1"][resample] == pytest.approx(tar_at_far(drawn, kinds, 0.1))
    assert len(np.unique(found["auc"])) == 7


@pytest.mark.parametrize("count", [40, 43])
def test_accuracies_are_those_of_the_protocol_on_the_drawn_pairs(count: int) -> None:
    distances, same = overlapping(count)
    same[:4] = False  # the first fold lacks genuine pairs
    (drawn_folds,) = resampled_folds(distances, same, 10, 5, np.random.default_rng(3))
    found, thresholds = FIGURES["accuracy"].compute(drawn_folds), FIGURES["threshold"].compute(drawn_folds)
    rng = np.random.default_rng(3)  # draws fold by fold, in each genuine, then impostor pairs
    folds = []
    for fold, kinds in zip(np.array_split(distances, 10), np.array_split(same, 10), strict=True):
        drawn = []
        for values in (np.sort(fold[kinds]), np.sort(fold[~kinds])):
            chosen = rng.integers(0, len(values), (5, len(values))) if len(values) else np.empty((5, 0), int)
            drawn.append(values[chosen])
        folds.append((np.concatenate(drawn, axis=1), np.sort(kinds)[::-1]))
    drawn_same = np.concatenate([kinds for _, kinds in folds])
    for resample in range(5):
        drawn_distances = np.concatenate([values[resample] for values, _ in folds])
        accuracy, _, threshold = k_fold_accuracy(drawn_distances, drawn_same)
        assert (found[resample], thresholds[resample]) == pytest.approx((accuracy, threshold))
    assert len(np.unique(found)) > 1


def test_interval_is_from_the_2_5th_to_the_97_5th_percentile(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).permutation(np.linspace(0, 1, 1001))[:, None]
    curves = Curves(np.zeros((1001, 1)), np.zeros((1001, 1)), 320, 320)
    monkeypatch.setattr(intervals, "resampled_folds", lambda *_: iter([Folds(values, values)]))
    monkeypatch.setattr(intervals, "resampled_curves", lambda *_: iter([curves]))
    eer = replace(FIGURES["eer"], compute=lambda _: 2 * values[:, 0])
    kept = {key: FIGURES[key] for key in ("accuracy", "tar_at_far_1e-1", "tar_at_far_1e-2", "threshold")}
    monkeypatch.setattr(intervals, "FIGURES", kept | {"eer": eer})
    found = bootstrap(*overlapping(640))
    assert found["accuracy"] == pytest.approx((0.025, 0.975))
    assert found["eer"] == pytest.approx((0.05, 1.95))
    assert found["tar_at_far_1e-2"] is None and "threshold" not in found  # too few pairs; has no interval


def test_intervals_hold_the_rates_and_shrink_with_more_pairs() -> None:
    widths = []
    for count in (640, 2560):
        distances, same = overlapping(count)
        rates, found = verify_distances(distances, same).values, bootstrap(distances, same, 300)
        for name in ("accuracy", "auc", "eer"):
            low, high = found[name]
            assert 0 <= low < rates[name] < high <= 1
        widths.append(found["auc"][1] - found["auc"][0])
    assert widths[1] == pytest.approx(widths[0] / 2, rel=0.3)  # four times the pairs


def test_auc_interval_agrees_with_the_formula_of_hanley_and_mcneil() -> None:
    """Their standard error of the AUC (Radiology 143, 1982), with the two chances counted instead of modelled."""
    distances, same = overlapping(640)
    genuine, impostor = distances[same], distances[~same]
    nearer = (genuine[:, None] < impostor) + 0.5 * (genuine[:, None] == impostor)  # (genuine, impostor)
    area = nearer.mean()
    variance = nearer.mean(axis=1).var() / len(genuine) + nearer.mean(axis=0).var() / len(impostor)
    low, high = bootstrap(distances, same, 2000)["auc"]
    assert (low + high) / 2 == pytest.approx(area, abs=0.2 * variance**0.5)
    assert high - low == pytest.approx(2 * 1.96 * variance**0.5, rel=0.1)


def test_seed_decides_and_order_within_folds_does_not() -> None:
    distances, same = overlapping(640)
    found = bootstrap(distances, same, 50, seed=1)
    assert bootstrap(distances, same, 50, seed=1) == found
    assert bootstrap(distances, same, 50, seed=2) != found
    rng = np.random.default_rng(0)
    order = np.concatenate([rng.permutation(fold) for fold in np.array_split(np.arange(640), 10)])
    assert bootstrap(distances[order], same[order], 50, seed=1) == found


def test_chunks_only_bound_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    # Two kinds are drawn in turn, so that chunks draw otherwise; the intervals must agree all the same.
    distances, same = overlapping(640)
    whole = bootstrap(distances, same, 2000)
    monkeypatch.setattr(intervals, "_VALUES_AT_ONCE", 100_000)
    parts = bootstrap(distances, same, 2000)
    assert parts["auc"] == pytest.approx(whole["auc"], abs=0.003)
    assert parts["accuracy"] == pytest.approx(whole["accuracy"], abs=0.006)


def test_pairs_that_are_far_apart_leave_no_doubt() -> None:
    same = np.arange(60) % 2 == 0
    found = bootstrap(np.where(same, 0.5, 1.5), same, 20)
    assert (found["accuracy"], found["auc"], found["eer"]) == ((1, 1), (1, 1), (0, 0))


def test_no_resamples_are_refused() -> None:
    with pytest.raises(ValueError, match="resamples = 0, expected at least 1"):
        bootstrap(*overlapping(40), resamples=0)


def test_lfw_takes_less_than_two_seconds() -> None:
    distances, same = overlapping(6000)
    distances = distances + np.random.default_rng(0).random(6000) * 1e-3  # no ties: the longest curves
    started = time.process_time()
    bootstrap(distances, same, 1000)
    assert time.process_time() - started < 2
