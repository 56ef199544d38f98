"""Re-identification, against naive loops."""

from __future__ import annotations

import numpy as np
import pytest

from validation.measure.reidentification import FMRS, make_gallery, reidentify, threshold_at

RNG = np.random.default_rng(0)
PEOPLE = np.repeat(np.arange(12), 8)


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


CLEAR = unit(RNG.normal(size=(12, 16))[PEOPLE] + 0.8 * RNG.normal(size=(96, 16)))
RECONSTRUCTED = unit(CLEAR + 0.6 * RNG.normal(size=(96, 16)))


def test_threshold_lets_no_more_through_than_allowed() -> None:
    scores = RNG.normal(size=1000)
    assert (scores >= threshold_at(scores, 0.01)).sum() == 10
    ties = np.repeat([0.1, 0.2], 500)
    assert (ties >= threshold_at(ties, 0.01)).sum() == 0


def test_measures_against_naive_loops() -> None:
    gallery = make_gallery(CLEAR, PEOPLE)
    found = reidentify(RECONSTRUCTED, gallery)
    impostor = [float(CLEAR[i] @ CLEAR[j]) for i in range(96) for j in range(i) if PEOPLE[i] != PEOPLE[j]]
    for name, fmr in FMRS.items():
        assert np.mean(np.array(impostor) >= gallery.thresholds[name]) <= fmr
    for i in range(96):
        others = [j for j in range(96) if j != i]
        scores = {j: float(RECONSTRUCTED[i] @ CLEAR[j]) for j in range(96)}
        mated = [j for j in others if PEOPLE[j] == PEOPLE[i]]
        for name, threshold in gallery.thresholds.items():
            assert found[name][i] == pytest.approx(np.mean([scores[j] >= threshold for j in mated]))
        assert found["cosine"][i] == pytest.approx(scores[i], abs=1e-6)
        assert found["rank1"][i] == (PEOPLE[max(others, key=scores.__getitem__)] == PEOPLE[i])


def test_clear_images_are_like_themselves() -> None:
    assert reidentify(CLEAR, make_gallery(CLEAR, PEOPLE))["cosine"] == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    ("count", "people", "message"), [(12, PEOPLE[:12], "hold out more people"), (3, np.arange(3), "single image")]
)
def test_too_few_are_refused(count: int, people: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_gallery(CLEAR[:count], people)
