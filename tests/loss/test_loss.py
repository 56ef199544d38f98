"""Distillation terms against NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from torchkit.loss import DISTILLATIONS, cosine_distance, map_error, mean_squared_error, weighted_map_error


def unit_vectors(batch: int, size: int, seed: int) -> Tensor:
    vectors = np.random.default_rng(seed).normal(size=(batch, size))
    return torch.from_numpy(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


@pytest.fixture
def embeddings() -> Tensor:
    return unit_vectors(7, 512, 0)


@pytest.fixture
def targets() -> Tensor:
    return unit_vectors(7, 512, 1)


def test_cosine_distance_is_the_mean_of_one_minus_cosine(embeddings: Tensor, targets: Tensor) -> None:
    expected = np.mean([1 - a @ b for a, b in zip(embeddings.numpy(), targets.numpy(), strict=True)])
    assert cosine_distance(embeddings, targets).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("sign", "distance"), [(1, 0.0), (-1, 2.0)])
def test_cosine_distance_ends(embeddings: Tensor, sign: int, distance: float) -> None:
    assert cosine_distance(embeddings, sign * embeddings).item() == pytest.approx(distance, abs=1e-12)


def test_mean_squared_error_is_averaged_over_batch_and_dimensions(embeddings: Tensor, targets: Tensor) -> None:
    expected = np.mean((embeddings.numpy() - targets.numpy()) ** 2)
    assert mean_squared_error(embeddings, targets).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("size", [2, 128, 512])
def test_both_terms_say_the_same_of_unit_vectors(size: int) -> None:
    """mse = 2 (1 - cos) / D: why the published term is far smaller than a softmax loss."""
    a, b = unit_vectors(5, size, 2), unit_vectors(5, size, 3)
    expected = 2 * cosine_distance(a, b).item() / size
    assert mean_squared_error(a, b).item() == pytest.approx(expected, rel=1e-9)


def test_names_of_the_configuration(embeddings: Tensor, targets: Tensor) -> None:
    assert DISTILLATIONS["cosine"](embeddings, targets) == cosine_distance(embeddings, targets)
    assert DISTILLATIONS["mse"](embeddings, targets) == mean_squared_error(embeddings, targets)
    assert set(DISTILLATIONS) == {"cosine", "mse"}


@pytest.mark.parametrize("form", sorted(DISTILLATIONS))
def test_gradient_pulls_to_the_target(form: str, embeddings: Tensor, targets: Tensor) -> None:
    leaf = embeddings.clone().requires_grad_()
    DISTILLATIONS[form](leaf, targets).backward()
    assert leaf.grad is not None
    moved = embeddings - 0.1 * leaf.grad / leaf.grad.norm()
    moved = moved / moved.norm(dim=1, keepdim=True)
    assert DISTILLATIONS[form](moved, targets) < DISTILLATIONS[form](embeddings, targets)


def random_maps(seed: int) -> list[Tensor]:
    rng = np.random.default_rng(seed)
    shapes = [(2, 3, 40, 40), (2, 5, 24, 24), (2, 20, 12, 12)]
    return [torch.from_numpy(rng.normal(1, 2, shape)).float() for shape in shapes]


def test_map_error_is_the_mean_of_the_relative_squared_errors() -> None:
    maps, targets = random_maps(0), random_maps(1)
    errors = []
    for m, t in ((m.double().numpy(), t.double().numpy()) for m, t in zip(maps, targets, strict=True)):
        errors.append(np.sum((m - t) ** 2) / np.sum((t - t.mean()) ** 2))
    assert map_error(maps, targets).item() == pytest.approx(np.mean(errors), rel=1e-3)


def test_weighted_map_error_is_the_mean_over_taps_and_images_of_weighted_sums() -> None:
    maps, targets = random_maps(0), random_maps(1)
    weights = [torch.rand(t.shape[1:]) for t in targets]
    errors = []
    for m, t, w in zip(maps, targets, weights, strict=True):
        errors.append(np.mean([np.sum((m[i] - t[i]).numpy() ** 2 * w.numpy()) for i in range(len(m))]))
    assert weighted_map_error(maps, targets, weights).item() == pytest.approx(np.mean(errors), rel=1e-4)


def test_map_error_ends() -> None:
    targets = [torch.randn(4, 16, 20, 20), torch.randn(4, 16, 20, 20) * 50 + 7]
    assert map_error(targets, targets).item() == 0
    constant = [torch.full_like(t, t.mean().item()) for t in targets]
    assert map_error(constant, targets).item() == pytest.approx(1, abs=1e-3)
    assert map_error([t * 1000 for t in constant], [t * 1000 for t in targets]).item() == pytest.approx(1, abs=1e-3)
