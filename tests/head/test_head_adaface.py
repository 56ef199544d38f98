"""AdaFace against its formula, number by number."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from torchkit.head import AdaFace

SCALE, MARGIN, H = 64.0, 0.4, 0.333


def value(theta: float, quality: float, margin: float = MARGIN) -> float:
    return math.cos(min(max(theta - margin * quality, 0.0), math.pi)) - margin * (1 + quality)


def quality_of(length: float, mean: float, std: float) -> float:
    return min(max((min(max(length, 1e-3), 100) - mean) / (std + 1e-3) * H, -1), 1)


def head_in_the_plane(mean: float, std: float) -> AdaFace:
    """Class 0 at 0 degrees, class 1 at 90."""
    head = AdaFace(2, 2, SCALE, MARGIN).eval()
    head.mean.fill_(mean)
    head.std.fill_(std)
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[2.0, 0.0], [0.0, 0.3]]))
    return head


@given(
    theta=st.floats(0, math.pi),
    length=st.floats(1e-2, 200),
    mean=st.floats(1, 60),
    std=st.floats(0.1, 100),
)
def test_logits(theta: float, length: float, mean: float, std: float) -> None:
    embedding = length * torch.tensor([[math.cos(theta), math.sin(theta)]])
    logits = head_in_the_plane(mean, std)(embedding, torch.tensor([0]))[0]
    assert logits[0].item() == pytest.approx(SCALE * value(theta, quality_of(length, mean, std)), abs=0.05)
    assert logits[1].item() == pytest.approx(SCALE * math.sin(theta), abs=1e-3)


@pytest.mark.parametrize("degrees", [0, 5, 60, 120, 170, 180])
def test_poor_average_and_good_images(degrees: float) -> None:
    """ArcFace's margin, CosFace's, and the opposite angle with twice the cosine margin."""
    theta, head = math.radians(degrees), head_in_the_plane(20, 5)
    lengths = torch.tensor([[1.0], [20.0], [99.0]])
    embeddings = lengths * torch.tensor([math.cos(theta), math.sin(theta)])
    logits = head(embeddings, torch.zeros(3, dtype=torch.int64))[:, 0].tolist()
    expected = [
        math.cos(min(theta + MARGIN, math.pi)),
        math.cos(theta) - MARGIN,
        math.cos(max(theta - MARGIN, 0)) - 2 * MARGIN,
    ]
    assert logits == pytest.approx([SCALE * e for e in expected], abs=0.03)


def test_running_statistics_follow_the_lengths() -> None:
    head, mean, std = AdaFace(4, 5, SCALE, MARGIN, momentum=0.9), 20.0, 100.0
    for _ in range(3):
        embeddings = 10 * torch.randn(6, 4)
        head(embeddings, torch.randint(5, (6,)))
        lengths = np.linalg.norm(embeddings.double().numpy(), axis=1)
        mean = 0.9 * mean + 0.1 * lengths.mean()
        std = 0.9 * std + 0.1 * lengths.std(ddof=1)
    assert (head.mean.item(), head.std.item()) == pytest.approx((mean, std), rel=1e-5)
    head.eval()(embeddings, torch.randint(5, (6,)))
    assert head.mean.item() == pytest.approx(mean, rel=1e-5)


def test_a_batch_of_one_leaves_the_statistics_finite() -> None:
    head = AdaFace(4, 5, SCALE, MARGIN)
    assert torch.isfinite(head(torch.randn(1, 4), torch.tensor([2]))).all()
    assert (head.mean.item(), head.std.item()) == (20, 100)


def test_no_gradient_along_the_embedding() -> None:
    """Cosines do not depend on the length, and the quality is a constant."""
    head = AdaFace(4, 5, SCALE, MARGIN)
    embeddings = (20 * torch.randn(6, 4)).requires_grad_()
    labels = torch.randint(5, (6,))
    torch.nn.functional.cross_entropy(head(embeddings, labels), labels).backward()
    assert embeddings.grad is not None and embeddings.grad.norm() > 1e-3
    along = (embeddings.grad * torch.nn.functional.normalize(embeddings.detach())).sum(dim=1)
    assert along.abs().max() < 1e-5 * embeddings.grad.norm()
