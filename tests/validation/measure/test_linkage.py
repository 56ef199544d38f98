"""Linkability, against distributions with a known value."""

from __future__ import annotations

import numpy as np
import pytest

from validation.measure.linkage import (
    averaged,
    direct_scores,
    global_linkability,
    maximal_linkability,
    measure_linkage,
    order_free,
    split_scores,
)

RNG = np.random.default_rng(0)


def test_two_uniform_distributions_that_overlap_by_half() -> None:
    """U(0, 1) mated, U(0.5, 1.5) not: D = 1 below 0.5, where half of the mated lie, and 0 where both are as likely."""
    mated, non_mated = RNG.uniform(0, 1, 50_000), RNG.uniform(0.5, 1.5, 50_000)
    assert global_linkability(mated, non_mated) == pytest.approx(0.5, abs=0.03)
    assert maximal_linkability(mated, non_mated) == pytest.approx(np.log2(1.5), abs=0.03)


def test_densities_of_different_height() -> None:
    """U(0, 1) mated, U(0, 4) not: LR = 4 on the mated scores, so that D = 2 * 4 / 5 - 1 = 0.6 everywhere there."""
    mated, non_mated = RNG.uniform(0, 1, 50_000), RNG.uniform(0, 4, 50_000)
    assert global_linkability(mated, non_mated) == pytest.approx(0.6, abs=0.03)
    assert maximal_linkability(mated, non_mated) == pytest.approx(np.log2(1 + 0.75), abs=0.03)


@pytest.mark.parametrize("measure", [global_linkability, maximal_linkability])
def test_from_nothing_to_everything(measure) -> None:
    alike = RNG.normal(size=20_000)
    assert measure(alike, RNG.normal(size=20_000)) < 0.06
    assert measure(alike, alike + 100) == pytest.approx(1)
    assert measure(np.ones(50), np.ones(50)) == 0


def test_prior_ratio_against_the_formula() -> None:
    mated, non_mated = RNG.uniform(0, 1, 50_000), RNG.uniform(0, 4, 50_000)
    assert global_linkability(mated, non_mated, prior_ratio=0.5) == pytest.approx(2 * 2 / 3 - 1, abs=0.03)
    assert global_linkability(mated, non_mated, prior_ratio=0.2) == pytest.approx(0, abs=0.03)


@pytest.mark.parametrize(("mated", "message"), [(np.zeros(5), "at least 20"), (np.full(30, np.nan), "not finite")])
def test_bad_scores_are_refused(mated: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        global_linkability(mated, np.zeros(30))


def test_direct_scores_are_cosines_about_the_mean() -> None:
    first, second = RNG.normal(3, 1, (4, 10)), RNG.normal(3, 1, (5, 10))
    a, b = first[1] - first.mean(0), second[2] - second.mean(0)
    assert direct_scores(first, second)[1, 2] == pytest.approx(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


@pytest.mark.parametrize("size_px", [6, 28])
def test_no_permutation_changes_what_is_order_free(size_px: int) -> None:
    maps = RNG.normal(size=(2, 5, size_px, size_px)).astype(np.float32)
    half = size_px // 2
    shuffled = maps.copy()
    for row in (0, half):
        for column in (0, half):
            block = maps[:, RNG.permutation(5), row : row + half, column : column + half]
            shuffled[:, :, row : row + half, column : column + half] = block
    assert np.allclose(order_free(maps, 2), order_free(shuffled, 2), atol=1e-5)
    assert not np.allclose(order_free(maps, 2), order_free(maps[:, :, ::-1], 2), atol=1e-2)


def test_scores_are_split_by_person() -> None:
    scores = np.arange(9.0).reshape(3, 3)
    people = np.array([7, 7, 8])
    mated, non_mated = split_scores(scores, people, people, within=True)
    assert (mated.tolist(), non_mated.tolist()) == ([3], [6, 7])  # each pair once, none with itself
    mated, non_mated = split_scores(scores, people, people, within=False)
    assert (mated.tolist(), non_mated.tolist()) == ([0, 1, 3, 4, 8], [2, 5, 6, 7])


def test_averages_are_of_one_person_each() -> None:
    people = np.repeat([3, 4], [6, 5])
    means, owners = averaged(people[:, None] * 1.0, people, 2, np.random.default_rng(0))
    assert owners.tolist() == [3, 3, 3, 4, 4]
    assert np.array_equal(means[:, 0], owners)
    with pytest.raises(ValueError, match="nobody has 8 messages"):
        averaged(people[:, None] * 1.0, people, 4, np.random.default_rng(0))


def test_another_key_hides_from_direct_comparison_alone() -> None:
    people = np.repeat(np.arange(20), 6)
    own = RNG.normal(size=(20, 24, 4, 4))[people]
    maps = (own + 0.3 * RNG.normal(size=(120, 24, 4, 4))).astype(np.float32)
    other = maps[:, RNG.permutation(24)]
    links = measure_linkage([maps], [other], [1], people, counts=(1, 2))
    found = {(link.keys, link.score, link.messages): link for link in links}
    assert len(found) == 8
    for keys, score in ((1, "direct"), (1, "order_free"), (2, "order_free")):
        assert found[keys, score, 1].d_sys > 0.9
        assert found[keys, score, 1].chance < 0.8
    hidden = found[2, "direct", 1]
    assert hidden.d_sys == pytest.approx(hidden.chance, abs=0.3)


def test_without_a_key_there_is_one_way() -> None:
    people = np.repeat(np.arange(10), 10)
    maps = RNG.normal(size=(100, 4, 4, 4)).astype(np.float32)
    links = measure_linkage([maps], None, [1], people, counts=(1,))
    assert [(link.keys, link.score) for link in links] == [(1, "direct")]
