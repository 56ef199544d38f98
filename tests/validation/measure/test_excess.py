"""Excess over the necessary, and its interval."""

from __future__ import annotations

import numpy as np
import pytest

from validation.measure.excess import METRICS, Margins, all_excesses, paired_excess, person_means, resampled_means

PEOPLE = np.repeat(np.arange(15), 4)
RNG = np.random.default_rng(0)


def test_value_is_the_mean_paired_difference() -> None:
    less = RNG.normal(size=(3, 60))
    excess = paired_excess("operational", "ssim", less + 0.25, less, PEOPLE)
    assert (excess.value, excess.low, excess.high) == pytest.approx((0.25, 0.25, 0.25))
    assert not excess.is_none(0.01)
    assert excess.is_none(0.3)


def test_interval_resamples_people_not_images() -> None:
    """Images of a person that all say the same are one observation."""
    offsets = RNG.normal(size=15)
    of_people = np.tile(offsets[PEOPLE], (3, 1))
    of_images = np.tile(RNG.permutation(offsets[PEOPLE]), (3, 1))
    wide = paired_excess("operational", "ssim", of_people, np.zeros((3, 60)), PEOPLE)
    narrow = paired_excess("operational", "ssim", of_images, np.zeros((3, 60)), PEOPLE)
    assert wide.high - wide.low > 1.5 * (narrow.high - narrow.low)
    expected = 1.96 * offsets.std() / np.sqrt(15)
    assert (wide.high - wide.low) / 2 == pytest.approx(expected, rel=0.2)


def test_resampled_means_against_a_naive_bootstrap() -> None:
    values = RNG.normal(size=(2, 9)) + np.repeat([0.0, 1.0, 3.0], [2, 3, 4])
    people = np.repeat([0, 1, 2], [2, 3, 4])
    means = resampled_means(person_means(values, people), 20_000, np.random.default_rng(1))
    naive = []
    for _ in range(4000):
        seeds, drawn = RNG.integers(0, 2, 2), RNG.integers(0, 3, 3)
        naive.append(np.mean([value for s in seeds for p in drawn for value in values[s, people == p]]))
    assert means.mean() == pytest.approx(np.mean(naive), abs=0.05)
    assert means.std() == pytest.approx(np.std(naive), rel=0.1)


def test_kinds_and_metrics() -> None:
    measures = {
        name: [{metric: np.full(60, value) for metric in METRICS}] * 2
        for name, value in {"O+e": 0.5, "O+Z": 0.4, "O+e+Z": 0.75}.items()
    }
    found = {(excess.kind, excess.metric): excess.value for excess in all_excesses(measures, PEOPLE)}
    assert len(found) == 2 * len(METRICS)
    assert found["operational", "rank1"] == pytest.approx(-0.1)
    assert found["conditional", "ssim"] == pytest.approx(0.25)
    assert all_excesses({"O": measures["O+Z"]}, PEOPLE) == []


def test_margins() -> None:
    margins = Margins(ssim=0.1, cosine=0.2, rate=0.3)
    assert [margins.of(metric) for metric in ("ssim", "cosine", "tar_fmr_1e-2", "rank1", "psnr")] == [
        0.1, 0.2, 0.3, 0.3, None,
    ]  # fmt: skip
