"""Distribution distillation against sums written out, in float64."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from torchkit.loss import distribution_distillation

NODES = np.linspace(-1, 1, 201)


def histogram(values: list[float]) -> np.ndarray:
    counts = np.array([sum(math.exp(-0.5 * ((value - node) / 0.1) ** 2) for value in values) for node in NODES])
    return counts / counts.sum()


def divergence(p: np.ndarray, q: np.ndarray) -> float:
    return float(sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a > 0))


def pairs(embeddings: np.ndarray, labels: list[int]) -> tuple[list[float], list[float]]:
    """Cosines of the pairs of one identity, and of each embedding's most similar one of another."""
    units = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    everyone = range(len(labels))
    positive = [float(units[i] @ units[j]) for i, j in combinations(everyone, 2) if labels[i] == labels[j]]
    others = [[float(units[i] @ units[j]) for j in everyone if labels[i] != labels[j]] for i in everyone]
    return positive, [max(row) for row in others if row]


def naive(student: np.ndarray, teacher: np.ndarray, labels: list[int]) -> float:
    (easy_positive, easy_negative), (hard_positive, hard_negative) = pairs(teacher, labels), pairs(student, labels)
    loss = 0.0
    if hard_positive:
        loss += 0.1 * divergence(histogram(easy_positive), histogram(hard_positive))
    if hard_negative:
        loss += 0.02 * divergence(histogram(easy_negative), histogram(hard_negative))
    if hard_positive and hard_negative:
        for negative in (easy_negative, hard_negative):
            for positive in (easy_positive, hard_positive):
                loss += 0.5 * (np.mean(negative) - np.mean(positive))
    return loss


@given(
    seed=st.integers(0, 10_000),
    labels=st.lists(st.integers(0, 3), min_size=1, max_size=8),
    size=st.sampled_from([2, 16]),
)
def test_value(seed: int, labels: list[int], size: int) -> None:
    """Batches without pairs of one identity, and of one identity alone, are among them."""
    student, teacher = np.random.default_rng(seed).normal(size=(2, len(labels), size))
    loss = distribution_distillation(torch.from_numpy(student), torch.from_numpy(teacher), torch.tensor(labels))
    assert loss.item() == pytest.approx(naive(student, teacher, labels), rel=1e-3, abs=1e-4)


def test_the_teachers_similarities_cost_nothing_but_their_order() -> None:
    teacher, labels = torch.randn(8, 5), torch.tensor([0, 0, 1, 1, 2, 2, 3, 3])
    positive, negative = pairs(teacher.double().numpy(), labels.tolist())
    loss = distribution_distillation(teacher, teacher, labels)
    assert loss.item() == pytest.approx(0.5 * 4 * (np.mean(negative) - np.mean(positive)), abs=1e-5)


@pytest.mark.parametrize("distance", [0.0, 1e-4, 5.0])
def test_gradient_reaches_the_student_alone_and_is_finite(distance: float) -> None:
    teacher, labels = torch.randn(8, 5), torch.arange(8) // 2
    student = (teacher + distance * torch.randn(8, 5)).requires_grad_()
    teacher.requires_grad_()
    distribution_distillation(student, teacher, labels).backward()
    assert student.grad is not None and torch.isfinite(student.grad).all() and student.grad.norm() > 0
    assert teacher.grad is None


def test_distributions_far_apart_are_finite() -> None:
    """Similarities of 1 and of -1: the histograms share no digit of float32."""
    teacher = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    student = torch.tensor([[1.0, 0.0], [-1.0, 1e-3]], requires_grad=True)
    loss = distribution_distillation(student, teacher, torch.tensor([0, 0]))
    loss.backward()
    assert 1 < loss.item() < 100 and student.grad is not None and torch.isfinite(student.grad).all()


def test_steps_bring_the_similarities_nearer() -> None:
    teacher = torch.nn.functional.normalize(torch.eye(4).repeat_interleave(2, 0) + 0.1 * torch.randn(8, 4))
    student, labels = torch.randn(8, 4, requires_grad=True), torch.arange(4).repeat_interleave(2)
    losses = []
    for _ in range(40):
        loss = distribution_distillation(student, teacher, labels)
        student.data -= 0.5 * torch.autograd.grad(loss, student)[0]
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 1
    positive, negative = pairs(student.detach().double().numpy(), labels.tolist())
    assert min(positive) > max(negative)


def test_a_batch_without_pairs_costs_nothing() -> None:
    assert distribution_distillation(torch.randn(1, 4), torch.randn(1, 4), torch.tensor([0])).item() == 0


def test_the_loss_is_computed_in_float32_under_autocast() -> None:
    student, teacher, labels = torch.randn(8, 5), torch.randn(8, 5), torch.arange(8) // 2
    with torch.autocast("cpu", torch.bfloat16):
        mixed = distribution_distillation(student, teacher, labels)
    assert torch.equal(mixed, distribution_distillation(student, teacher, labels))
