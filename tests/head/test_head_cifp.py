"""CIFP against its formula, number by number, in float64."""

from __future__ import annotations

import math

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from torchkit.head import CIFP

SCALE, MARGIN = 32.0, 0.3


def false_positives(cosines: np.ndarray, labels: list[int]) -> list[list[int]]:
    """For each row the classes above the common threshold and not above the row's true class."""
    num_classes = cosines.shape[1]
    candidates = [
        (cosine, i, j)
        for i, row in enumerate(cosines)
        for j, cosine in enumerate(row)
        if j != labels[i] and cosine <= row[labels[i]]
    ]
    passed = math.ceil(len(candidates) / (num_classes - 1))
    threshold = sorted((cosine for cosine, _, _ in candidates), reverse=True)[passed - 1] if passed else math.inf
    return [[j for cosine, i, j in candidates if i == row and cosine > threshold] for row in range(len(cosines))]


def naive_logits(cosines: np.ndarray, labels: list[int]) -> np.ndarray:
    logits = cosines.copy()
    for i, classes in enumerate(false_positives(cosines, labels)):
        target = cosines[i, labels[i]]
        penalty = np.mean([cosines[i, j] ** 2 for j in classes]) if classes else 0.0
        logits[i, labels[i]] = target - MARGIN - (1 + target) * penalty
    return SCALE * logits


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def example(seed: int, pull: float, batch: int = 8, classes: int = 6) -> tuple[CIFP, torch.Tensor, torch.Tensor]:
    """A head and a batch of which each embedding is pulled to its class, so that not all others are above it."""
    torch.manual_seed(seed)
    head, labels = CIFP(4, classes, SCALE, MARGIN), torch.randint(classes, (batch,))
    return head, torch.randn(batch, 4) + pull * 100 * head.weight.detach()[labels], labels


@given(seed=st.integers(0, 10_000), pull=st.sampled_from([0.0, 0.5, 2.0, -2.0]))
def test_logits(seed: int, pull: float) -> None:
    head, embeddings, labels = example(seed, pull)
    cosines = unit(embeddings.double().numpy()) @ unit(head.weight.detach().double().numpy()).T
    expected = naive_logits(cosines, labels.tolist())
    np.testing.assert_allclose(head(embeddings, labels).detach().numpy(), expected, rtol=0, atol=1e-3)


def test_the_example_has_penalties() -> None:
    head, embeddings, labels = example(0, 0.5)
    cosines = unit(embeddings.double().numpy()) @ unit(head.weight.detach().double().numpy()).T
    assert sum(map(len, false_positives(cosines, labels.tolist()))) >= 4
    logits = head(embeddings, labels)[torch.arange(8), labels].detach().numpy()
    assert (logits < SCALE * (cosines[np.arange(8), labels] - MARGIN) - 0.1).sum() >= 3


def test_embeddings_worse_than_all_others_have_no_penalty() -> None:
    """No cosine counts as a false positive, and there is no threshold."""
    head = CIFP(2, 2, SCALE, MARGIN)
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]))
    logits = head(torch.tensor([[-3.0, 0.0]]), torch.tensor([0]))
    np.testing.assert_allclose(logits.detach().numpy(), [[SCALE * (-1 - MARGIN), SCALE]], atol=1e-4)


@given(seed=st.integers(0, 10_000), pull=st.sampled_from([0.5, 2.0]))
def test_gradients_are_those_of_the_formula(seed: int, pull: float) -> None:
    """The centres count as constants in 1 + cos theta, and in false positives at or above cos theta - m."""
    head, embeddings, labels = example(seed, pull)
    embeddings.requires_grad_()
    weights = torch.randn(8)
    logits = head(embeddings, labels)[torch.arange(8), labels]
    (logits * weights).sum().backward()

    e = embeddings.detach().double().requires_grad_()
    w = head.weight.detach().double().requires_grad_()
    a, b = torch.nn.functional.normalize(e), torch.nn.functional.normalize(w)
    cosines = (a @ b.T).detach().numpy()
    total = torch.zeros((), dtype=torch.float64)
    for i, classes in enumerate(false_positives(cosines, labels.tolist())):
        y = int(labels[i])
        easy = {j: cosines[i, j] < cosines[i, y] - MARGIN for j in classes}
        squares = [(a[i] @ (b[j] if easy[j] else b[j].detach())) ** 2 for j in classes]
        penalty = sum(squares) / max(1, len(squares))
        value = a[i] @ b[y] - MARGIN - (1 + a[i] @ b[y].detach()) * penalty
        total = total + SCALE * float(weights[i]) * value
    total.backward()
    for got, expected in ((embeddings.grad, e.grad), (head.weight.grad, w.grad)):
        assert got is not None and expected is not None
        assert (got - expected).norm() <= 1e-4 * expected.norm()
