"""Layers that are faster than PyTorch's own give what those give."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from torchkit.backbone.ir import Subsample
from torchkit.backbone.mobilefacenet import ConvBlock
from torchkit.backbone.prelu import PReLU


def gradients(layer: nn.Module, x: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Output, gradient of the input and of the parameters of sum(weights * layer(x))."""
    x = x.clone().requires_grad_()
    layer.zero_grad()
    out = layer(x)
    (out * weights).sum().backward()
    assert x.grad is not None
    return out.detach(), x.grad, [p.grad for p in layer.parameters() if p.grad is not None]


@pytest.mark.parametrize("channels_last", [False, True])
def test_prelu_is_pytorchs(channels_last: bool) -> None:
    x, weights = torch.randn(3, 5, 7, 7), torch.randn(3, 5, 7, 7)
    x[0, 0, 0] = 0  # where the slope changes
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    fast, plain = PReLU(5), nn.PReLU(5)
    slopes = torch.tensor([0.25, -0.5, 0.0, 1.5, 0.1])
    for layer in (fast, plain):
        layer.weight.data.copy_(slopes)
    for ours, theirs in zip(gradients(fast, x, weights), gradients(plain, x, weights), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_prelu_follows_its_formula() -> None:
    x = torch.tensor([-2.0, -0.5, 0.5, 2.0]).view(1, 1, 2, 2)
    layer = PReLU(1)
    layer.weight.data.fill_(0.25)
    out, grad_x, (grad_slope,) = gradients(layer, x, torch.full_like(x, 3))
    assert out.flatten().tolist() == [-0.5, -0.125, 0.5, 2.0]
    assert grad_x.flatten().tolist() == [0.75, 0.75, 3.0, 3.0]
    assert grad_slope.item() == 3 * (-2.0 - 0.5)


def test_frozen_prelu_passes_the_gradient_on_and_makes_none_of_its_own() -> None:
    layer = PReLU(4).requires_grad_(False)
    x = torch.randn(2, 4, 3, 3, requires_grad=True)
    layer(x).sum().backward()
    assert layer.weight.grad is None
    assert x.grad is not None
    assert torch.equal(x.grad, torch.where(x > 0, 1.0, 0.25))


@pytest.mark.parametrize("stride", [1, 2])
def test_subsampling_is_max_pooling_with_a_window_of_one(stride: int) -> None:
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(Subsample(stride)(x), nn.MaxPool2d(1, stride)(x))


def test_strided_depthwise_convolution_under_autocast_is_that_of_float32() -> None:
    block = ConvBlock(8, 8, 3, 2, 1, groups=8).eval()
    x = torch.randn(2, 8, 12, 12)
    weights = torch.randn(2, 8, 6, 6)
    exact = gradients(block, x, weights)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = gradients(block, x.bfloat16().float(), weights)
        assert block(x.bfloat16()).dtype == torch.bfloat16
    torch.testing.assert_close(mixed[1].float(), exact[1], rtol=0.02, atol=0.02)
    torch.testing.assert_close(mixed[0].float(), exact[0], rtol=0.02, atol=0.02)
