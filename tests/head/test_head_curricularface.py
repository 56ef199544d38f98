"""CurricularFace against its formula, number by number."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from torchkit.head import CurricularFace

SCALE, MARGIN = 30.0, 0.5


def true_value(cosine: float) -> float:
    theta = math.acos(cosine)
    return math.cos(theta + MARGIN) if theta < math.pi - MARGIN else cosine - MARGIN * math.sin(MARGIN)


def naive_logits(cosines: np.ndarray, labels: list[int], t: float) -> np.ndarray:
    logits = np.empty_like(cosines)
    for i, row in enumerate(cosines):
        positive = true_value(row[labels[i]])
        for j, cosine in enumerate(row):
            logits[i, j] = positive if j == labels[i] else cosine * (t + cosine) if cosine > positive else cosine
    return SCALE * logits


def cosines_of(head: CurricularFace, embeddings: torch.Tensor) -> np.ndarray:
    a, b = embeddings.double().numpy(), head.weight.detach().double().numpy()
    return (a / np.linalg.norm(a, axis=1, keepdims=True)) @ (b / np.linalg.norm(b, axis=1, keepdims=True)).T


@given(seed=st.integers(0, 10_000), t=st.floats(-1, 1))
def test_logits(seed: int, t: float) -> None:
    torch.manual_seed(seed)
    head = CurricularFace(3, 7, SCALE, MARGIN).eval()  # 3 dimensions: all angles
    head.t.fill_(t)
    embeddings, labels = torch.randn(6, 3), torch.randint(7, (6,))
    expected = naive_logits(cosines_of(head, embeddings), labels.tolist(), t)
    np.testing.assert_allclose(head(embeddings, labels).detach().numpy(), expected, rtol=0, atol=2e-2)


def test_t_is_the_running_mean_of_the_true_cosines_updated_before_its_use() -> None:
    head, t = CurricularFace(3, 7, SCALE, MARGIN, momentum=0.75), 0.0
    for _ in range(3):
        embeddings, labels = torch.randn(6, 3), torch.randint(7, (6,))
        cosines = cosines_of(head, embeddings)
        t = 0.75 * t + 0.25 * cosines[np.arange(6), labels].mean()
        logits = head(embeddings, labels).detach().numpy()
        assert head.t.item() == pytest.approx(t, abs=1e-6)
        np.testing.assert_allclose(logits, naive_logits(cosines, labels.tolist(), t), rtol=0, atol=2e-2)
    assert abs(t) > 0.01


def test_evaluation_leaves_t_alone() -> None:
    head = CurricularFace(3, 7, SCALE, MARGIN).eval()
    head(torch.randn(6, 3), torch.randint(7, (6,)))
    assert head.t.item() == 0


@pytest.mark.parametrize(("cosine", "expected"), [(0.7, 0.7 * (0.3 + 0.7)), (-0.1, -0.1)])
def test_hard_and_easy_negative_at_known_angles(cosine: float, expected: float) -> None:
    """Beside a true class at 60 degrees, which counts cos(60 degrees + 0.5 rad) = 0.02."""
    head = CurricularFace(2, 2, 1.0, 0.5).eval()
    head.t.fill_(0.3)
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[0.5, math.sqrt(0.75)], [cosine, -math.sqrt(1 - cosine**2)]]))
    logits = head(torch.tensor([[1.0, 0.0]]), torch.tensor([0]))
    assert logits[0, 1].item() == pytest.approx(expected, abs=1e-6)
