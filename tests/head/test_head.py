"""Heads with a fixed margin against their formulas at known angles, and what all heads have in common."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from torchkit.config.schema import HeadConfig
from torchkit.head import CIFP, HEADS, AdaFace, ArcFace, CosFace, CurricularFace, MarginHead, NormFace, PartialFC

DEGREES = [0, 10, 30, 60, 90, 120, 150, 170, 180]
SCALE, MARGIN = 64.0, 0.5


def in_the_plane(kind: type[MarginHead], scale: float = SCALE, margin: float = MARGIN) -> MarginHead:
    """Class 0 at 0 degrees, class 1 at 90; the lengths of the centres must not matter."""
    head = kind(embedding_size=2, num_classes=2, scale=scale, margin=margin)
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[3.0, 0.0], [0.0, 0.2]]))
    return head


def embeddings_at(angles_rad: np.ndarray, length: float = 1.0) -> Tensor:
    directions = np.stack([np.cos(angles_rad), np.sin(angles_rad)], axis=1)
    directions[np.abs(directions) < 1e-12] = 0
    return torch.from_numpy(length * directions).float()


def arcface(theta: float, scale: float = SCALE, margin: float = MARGIN) -> float:
    """s cos(theta + m), beyond theta = pi - m continued as s (cos theta - m sin m)."""
    if theta <= math.pi - margin:
        return scale * math.cos(theta + margin)
    return scale * (math.cos(theta) - margin * math.sin(margin))


def cosface(theta: float, scale: float = SCALE, margin: float = MARGIN) -> float:
    return scale * (math.cos(theta) - margin)


def normface(theta: float, scale: float = SCALE, margin: float = MARGIN) -> float:
    return scale * math.cos(theta)


FORMULAS = {ArcFace: arcface, CosFace: cosface, NormFace: normface}
FIXED = pytest.mark.parametrize("kind", [ArcFace, CosFace, NormFace])
ALL = pytest.mark.parametrize("kind", HEADS.values(), ids=HEADS)


@FIXED
@pytest.mark.parametrize("length", [1.0, 0.3, 20.0])
def test_logit_of_the_true_class(kind: type[MarginHead], length: float) -> None:
    angles = np.radians(DEGREES)
    logits = in_the_plane(kind)(embeddings_at(angles, length), torch.zeros(len(DEGREES), dtype=torch.int64))
    expected = [FORMULAS[kind](theta) for theta in angles]
    np.testing.assert_allclose(logits[:, 0].detach().numpy(), expected, rtol=0, atol=1e-3)


@FIXED
def test_logits_of_other_classes_are_the_scaled_cosine(kind: type[MarginHead]) -> None:
    angles = np.radians(DEGREES)
    logits = in_the_plane(kind)(embeddings_at(angles), torch.zeros(len(DEGREES), dtype=torch.int64))
    np.testing.assert_allclose(logits[:, 1].detach().numpy(), SCALE * np.sin(angles), rtol=0, atol=1e-4)


@FIXED
def test_each_row_has_its_own_true_class(kind: type[MarginHead]) -> None:
    theta = math.radians(50)
    logits = in_the_plane(kind)(embeddings_at(np.array([theta, theta])), torch.tensor([0, 1]))
    to_class_1 = math.radians(40)
    expected = [
        [FORMULAS[kind](theta), SCALE * math.cos(to_class_1)],
        [SCALE * math.cos(theta), FORMULAS[kind](to_class_1)],
    ]
    np.testing.assert_allclose(logits.detach().numpy(), expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize("margin", [0.1, 0.5, 1.0])
def test_arcface_goes_on_falling_beyond_pi_minus_the_margin(margin: float) -> None:
    """cos(theta + m) would rise again there, and reward the worst embeddings."""
    angles = math.pi - margin * np.array([0.9, 0.5, 0.1])
    head = in_the_plane(ArcFace, margin=margin)
    logits = head(embeddings_at(angles), torch.zeros(3, dtype=torch.int64))[:, 0].detach().numpy()
    expected = SCALE * (np.cos(angles) - margin * math.sin(margin))
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-3)
    assert (expected < SCALE * np.cos(angles + margin)).all()


@FIXED
@pytest.mark.parametrize("margin", [0.0, 0.35, 0.5, 1.0])
def test_logit_falls_from_0_to_pi(kind: type[MarginHead], margin: float) -> None:
    angles = np.linspace(0, math.pi, 181)
    head = in_the_plane(kind, scale=1.0, margin=margin)
    logits = head(embeddings_at(angles), torch.zeros(181, dtype=torch.int64))[:, 0].detach().numpy()
    assert (np.diff(logits) < 0).all()


@FIXED
def test_margin_0_is_the_scaled_cosine(kind: type[MarginHead]) -> None:
    embeddings, labels = torch.randn(6, 8), torch.tensor([0, 1, 2, 3, 4, 0])
    head = kind(8, 5, scale=30.0, margin=0.0)
    a = embeddings.numpy() / np.linalg.norm(embeddings.numpy(), axis=1, keepdims=True)
    centres = head.weight.detach().numpy()
    b = centres / np.linalg.norm(centres, axis=1, keepdims=True)
    np.testing.assert_allclose(head(embeddings, labels).detach().numpy(), 30.0 * a @ b.T, rtol=0, atol=1e-4)


@ALL
@pytest.mark.parametrize("degrees", [0, 1e-3, 90, 179.999, 180])
def test_gradient_is_finite(kind: type[MarginHead], degrees: float) -> None:
    head = in_the_plane(kind)
    embeddings = embeddings_at(np.radians([degrees, 45])).requires_grad_()
    labels = torch.tensor([0, 1])
    torch.nn.functional.cross_entropy(head(embeddings, labels), head.columns(labels)).backward()
    for gradient in (embeddings.grad, head.weight.grad):
        assert gradient is not None and torch.isfinite(gradient).all() and gradient.norm() > 0


@FIXED
def test_gradient_is_finite_where_the_cosine_is_exactly_1(kind: type[MarginHead]) -> None:
    cosine = torch.tensor([[1.0], [-1.0], [1 - 6e-8]], requires_grad=True)
    in_the_plane(kind).with_margin(cosine).sum().backward()
    assert cosine.grad is not None and torch.isfinite(cosine.grad).all()


@ALL
def test_cosines_stay_within_their_range(kind: type[MarginHead]) -> None:
    """Rounding takes the product of two unit vectors beyond 1."""
    head = kind(512, 200, SCALE, MARGIN)
    cosines = head.cosines(head.weight.detach())
    assert cosines.diagonal().min() > 0.999 and cosines.max() == 1
    assert head.cosines(-head.weight.detach()).min() == -1


@FIXED
@pytest.mark.parametrize("degrees", [20, 60, 100, 140, 165])
def test_gradient_is_the_slope_of_the_formula(kind: type[MarginHead], degrees: float) -> None:
    theta, step = math.radians(degrees), 1e-5
    slope = (FORMULAS[kind](theta + step) - FORMULAS[kind](theta - step)) / (2 * step)
    embedding = embeddings_at(np.array([theta])).requires_grad_()
    in_the_plane(kind)(embedding, torch.tensor([0]))[0, 0].backward()
    assert embedding.grad is not None
    tangent = torch.tensor([-math.sin(theta), math.cos(theta)])  # the way in which theta grows
    assert float(embedding.grad[0] @ tangent) == pytest.approx(slope, rel=1e-3)


@ALL
def test_logits_are_float32_under_autocast(kind: type[MarginHead]) -> None:
    head, embeddings = kind(16, 10, SCALE, MARGIN).eval(), torch.randn(4, 16)
    labels = torch.arange(4)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = head(embeddings, labels)
    assert mixed.dtype == torch.float32
    assert torch.equal(mixed, head(embeddings, labels))
    assert head(embeddings.bfloat16(), labels).dtype == torch.float32


@ALL
def test_a_few_steps_reduce_the_loss(kind: type[MarginHead]) -> None:
    """Embeddings and centres both move, as they do in training."""
    head = kind(8, 20, 16.0, 0.3)
    embeddings = (20 * torch.nn.functional.normalize(torch.randn(12, 8))).requires_grad_()
    labels = torch.arange(20)[torch.randint(20, (12,))]
    losses = []
    for _ in range(30):
        loss = torch.nn.functional.cross_entropy(head(embeddings, labels), head.columns(labels))
        gradients = torch.autograd.grad(loss, [head.weight, embeddings])
        head.weight.data -= 0.01 * gradients[0]
        embeddings.data -= 10 * gradients[1]
        losses.append(loss.item())
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])


def test_the_configuration_takes_shares_of_the_identities() -> None:
    for rate in (0, 1.5):
        with pytest.raises(ValueError, match="SAMPLE_RATE"):
            HeadConfig(SAMPLE_RATE=rate)
    assert HeadConfig(SAMPLE_RATE=1).SAMPLE_RATE == 1 and HeadConfig().SAMPLE_RATE is None


def test_heads_by_name() -> None:
    kinds = [ArcFace, CosFace, NormFace, CurricularFace, AdaFace, PartialFC, CIFP]
    assert {kind.__name__: kind for kind in kinds} == HEADS
