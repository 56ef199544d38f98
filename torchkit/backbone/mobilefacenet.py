"""MobileFaceNet (Chen et al., CCBR 2018, arXiv 1804.07573), with the parameter names of TFace's weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from torchkit.backbone.base import Backbone
from torchkit.backbone.prelu import PReLU


class ConvBlock(nn.Module):
    """Convolution, batch norm and, unless `linear`, PReLU."""

    runs_in_order = True

    def __init__(
        self, in_channels: int, channels: int, kernel: int, stride: int = 1, padding: int = 0, groups: int = 1,
        linear: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.conv = nn.Conv2d(in_channels, channels, kernel, stride, padding, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(channels)
        self.prelu = nn.Identity() if linear else PReLU(channels)
        self.strided_depthwise = groups > 1 and stride > 1

    def forward(self, x: Tensor) -> Tensor:
        return self.prelu(self.bn(self._convolved(x)))

    def _convolved(self, x: Tensor) -> Tensor:
        """In float32 where bfloat16 would be slow: CPUs have no fast gradient of a strided depth-wise convolution."""
        if self.strided_depthwise and x.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
            with torch.autocast("cpu", enabled=False):
                return self.conv(x.float()).to(x.dtype)
        return self.conv(x)


class DepthWise(nn.Module):
    """Inverted bottleneck: 1x1 up to `inner` channels, 3x3 depth-wise, 1x1 down; a skip when `residual`."""

    def __init__(self, in_channels: int, channels: int, inner: int, stride: int, residual: bool = False) -> None:
        super().__init__()
        self.conv = ConvBlock(in_channels, inner, 1)
        self.conv_dw = ConvBlock(inner, inner, 3, stride, 1, groups=inner)
        self.project = ConvBlock(inner, channels, 1, linear=True)
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        out = self.project(self.conv_dw(self.conv(x)))
        return x + out if self.residual else out


class Residual(nn.Module):
    """`count` inverted bottlenecks with skips."""

    def __init__(self, channels: int, inner: int, count: int) -> None:
        super().__init__()
        self.model = nn.Sequential(*(DepthWise(channels, channels, inner, 1, residual=True) for _ in range(count)))

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


class GlobalDepthWise(nn.Module):
    """Global depth-wise convolution (7x7 -> 1x1) and the linear map to the embedding."""

    def __init__(self, channels: int, embedding_size: int) -> None:
        super().__init__()
        self.conv_6_dw = ConvBlock(channels, channels, 7, groups=channels, linear=True)
        self.flatten = nn.Flatten()
        self.linear = nn.Linear(channels, embedding_size, bias=False)
        self.bn = nn.BatchNorm1d(embedding_size, affine=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.linear(self.flatten(self.conv_6_dw(x))))


class MobileFaceNet(Backbone):
    """1 M parameters, 220 M multiply-adds; client of PRO-Face C, or a small recogniser.

    Args:
        embedding_size: length of the embedding.
        width: share of the published channels that each layer has, as in MobileNet (arXiv 1704.04861); multiply-adds
            shrink by about its square.

    Shape: (B, 3, 112, 112) in [-1, 1] -> (B, embedding_size). Taps: after conv_23 (64x28x28), conv_34
    (128x14x14), conv_45 (128x7x7) and conv_6_sep (512x7x7), channels times `width`.
    """

    def __init__(self, embedding_size: int = 512, width: float = 1.0) -> None:
        super().__init__()
        self.embedding_size = embedding_size
        c64, c128, c256, c512 = (round(channels * width) for channels in (64, 128, 256, 512))
        self.conv1 = ConvBlock(3, c64, 3, 2, 1)
        self.conv2_dw = ConvBlock(c64, c64, 3, 1, 1, groups=c64)
        self.conv_23 = DepthWise(c64, c64, c128, 2)
        self.conv_3 = Residual(c64, c128, 4)
        self.conv_34 = DepthWise(c64, c128, c256, 2)
        self.conv_4 = Residual(c128, c256, 6)
        self.conv_45 = DepthWise(c128, c128, c512, 2)
        self.conv_5 = Residual(c128, c256, 2)
        self.conv_6_sep = ConvBlock(c128, c512, 1)
        self.output_layer = GlobalDepthWise(c512, embedding_size)

    def segments(self) -> Sequence[Sequence[nn.Module]]:
        return [
            [self.conv1, self.conv2_dw, self.conv_23],
            [self.conv_3, self.conv_34],
            [self.conv_4, self.conv_45],
            [self.conv_5, self.conv_6_sep],
            [self.output_layer],
        ]
