"""Embeddings in few bits: the quantiser against an integral and published values, the rotation, what is lost."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from validation.measure.embedding_code import EmbeddingCode, lloyd_max, random_rotation

MAX_1960 = {1: ([0.0], [0.7980], 0.3634), 2: ([0.0, 0.9816], [0.4528, 1.510], 0.1175)}
"""Bits -> thresholds and levels from 0 up, mean squared error: table I of Max's article."""
GRID = np.linspace(-10, 10, 2_000_001)
DENSITY = np.exp(-(GRID**2) / 2) / np.sqrt(2 * np.pi)


def squared_error(step: float) -> float:
    """Of the symmetric 2-bit quantiser with thresholds 0 and +/- `step`, levels the means of their cells."""
    error = 0.0
    for low, high in ((-10, -step), (-step, 0), (0, step), (step, 10)):
        cell = (low <= GRID) & (high > GRID)
        level = (GRID * DENSITY)[cell].sum() / DENSITY[cell].sum()
        error += ((GRID[cell] - level) ** 2 * DENSITY[cell]).sum() * (GRID[1] - GRID[0])
    return error


@pytest.mark.parametrize("bits", MAX_1960)
def test_quantiser_is_the_published_one(bits: int) -> None:
    thresholds, levels = lloyd_max(bits)
    expected_thresholds, expected_levels, error = MAX_1960[bits]
    half = 2 ** (bits - 1)
    np.testing.assert_allclose(thresholds[half - 1 :], expected_thresholds, atol=1e-4)
    np.testing.assert_allclose(levels[half:], expected_levels, atol=5e-4)
    np.testing.assert_allclose(levels, [-level for level in reversed(levels)], atol=1e-9)
    quantised = np.array(levels)[np.digitize(GRID, thresholds)]
    assert ((GRID - quantised) ** 2 * DENSITY).sum() * (GRID[1] - GRID[0]) == pytest.approx(error, abs=1e-4)


def test_no_other_step_has_a_smaller_error() -> None:
    step = lloyd_max(2)[0][-1]
    coarse = min(np.arange(0.8, 1.2, 0.01), key=squared_error)
    assert step == pytest.approx(coarse, abs=0.011)
    assert squared_error(step) <= min(squared_error(step - 0.01), squared_error(step + 0.01))


def test_rotation_is_orthogonal_and_repeats() -> None:
    rotation = random_rotation(64)
    torch.testing.assert_close(rotation @ rotation.T, torch.eye(64), atol=1e-5, rtol=0)
    assert torch.equal(rotation, random_rotation(64))
    assert not torch.equal(rotation, random_rotation(64, seed=1))


@pytest.mark.parametrize(("bits", "cosine"), [(1, np.sqrt(2 / np.pi)), (2, np.sqrt(1 - 0.1175))])
def test_decoded_embeddings_keep_their_direction(bits: int, cosine: float) -> None:
    """Also of embeddings that are concentrated in few values; the cosine is sqrt(1 - error) for the best levels."""
    embeddings = torch.eye(512)[:200] + 0.01 * torch.randn(200, 512)
    code = EmbeddingCode(512, bits)
    codes = code.encode(F.normalize(embeddings))
    assert codes.unique().tolist() == list(range(2**bits))
    decoded = code.decode(codes)
    assert F.cosine_similarity(decoded, embeddings).mean().item() == pytest.approx(cosine, abs=0.01)


def test_one_bit_is_the_sign() -> None:
    embeddings = F.normalize(torch.randn(5, 128))
    codes = EmbeddingCode(128, 1).encode(embeddings)
    assert torch.equal(codes, (embeddings @ random_rotation(128) > 0).long())
