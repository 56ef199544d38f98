"""Improved residual networks IR and IR-SE, with the parameter names of AdaFace's checkpoints.

Residual unit: Deng et al., ArcFace, CVPR 2019, section 3.1 (BN-Conv-BN-PReLU-Conv-BN); squeeze and excitation:
Hu et al., CVPR 2018. Depths and widths: He et al., CVPR 2016.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from torch import Tensor, nn

from torchkit.backbone.base import Backbone
from torchkit.backbone.prelu import PReLU

BASIC_WIDTHS = (64, 128, 256, 512)
BOTTLENECK_WIDTHS = (256, 512, 1024, 2048)
BOTTLENECK_SQUEEZE = 4
STEM_CHANNELS = 64
FINAL_SIZE_PX = 7
UNITS = {
    "ir_18": (2, 2, 2, 2),
    "ir_34": (3, 4, 6, 3),
    "ir_50": (3, 4, 14, 3),
    "ir_101": (3, 13, 30, 3),
    "ir_152": (3, 8, 36, 3),
    "ir_200": (3, 24, 36, 3),
}
BOTTLENECK = frozenset({"ir_152", "ir_200"})


class SqueezeExcitation(nn.Module):
    """Channel gate: x * sigmoid(W2 relu(W1 mean(x)))."""

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        self.avg_pool = nn.AdaptiveAvgPool2d(1)
        self.fc1 = nn.Conv2d(channels, channels // reduction, 1, bias=False)
        self.relu = nn.ReLU()
        self.fc2 = nn.Conv2d(channels // reduction, channels, 1, bias=False)
        self.sigmoid = nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        return x * self.sigmoid(self.fc2(self.relu(self.fc1(self.avg_pool(x)))))


class Unit(nn.Module):
    """One residual unit: `res_layer(x) + shortcut_layer(x)`, halving the size when `stride` is 2."""

    def __init__(self, in_channels: int, channels: int, stride: int, bottleneck: bool, se: bool) -> None:
        super().__init__()
        self.shortcut_layer = _shortcut(in_channels, channels, stride)
        layers = _bottleneck(in_channels, channels, stride) if bottleneck else _basic(in_channels, channels, stride)
        self.res_layer = nn.Sequential(*layers)
        if se:
            self.res_layer.add_module("se_block", SqueezeExcitation(channels))

    def forward(self, x: Tensor) -> Tensor:
        return self.res_layer(x) + self.shortcut_layer(x)


class Subsample(nn.Module):
    """Take every `stride`-th row and column; the published code writes it as max pooling with a window of 1."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        return x if self.stride == 1 else x[:, :, :: self.stride, :: self.stride]


def _shortcut(in_channels: int, channels: int, stride: int) -> nn.Module:
    if in_channels == channels:
        return Subsample(stride)
    return nn.Sequential(nn.Conv2d(in_channels, channels, 1, stride, bias=False), nn.BatchNorm2d(channels))


def _basic(in_channels: int, channels: int, stride: int) -> list[nn.Module]:
    return [
        nn.BatchNorm2d(in_channels),
        nn.Conv2d(in_channels, channels, 3, 1, 1, bias=False),
        nn.BatchNorm2d(channels),
        PReLU(channels),
        nn.Conv2d(channels, channels, 3, stride, 1, bias=False),
        nn.BatchNorm2d(channels),
    ]


def _bottleneck(in_channels: int, channels: int, stride: int) -> list[nn.Module]:
    inner = channels // BOTTLENECK_SQUEEZE
    return [
        nn.BatchNorm2d(in_channels),
        nn.Conv2d(in_channels, inner, 1, bias=False),
        nn.BatchNorm2d(inner),
        PReLU(inner),
        nn.Conv2d(inner, inner, 3, 1, 1, bias=False),
        nn.BatchNorm2d(inner),
        PReLU(inner),
        nn.Conv2d(inner, channels, 1, stride, bias=False),
        nn.BatchNorm2d(channels),
    ]


class IR(Backbone):
    """IR-18 ... IR-200, plain or with squeeze and excitation.

    Args:
        depth: a key of `UNITS`, e.g. "ir_50".
        se: add squeeze and excitation to each unit.
        embedding_size: length of the embedding.

    Shape: (B, 3, 112, 112) in [-1, 1] -> (B, embedding_size). Taps: the ends of the four stages, at 56, 28, 14
    and 7 pixels.
    """

    def __init__(self, depth: str, se: bool = False, embedding_size: int = 512) -> None:
        super().__init__()
        self.embedding_size = embedding_size
        self.units = UNITS[depth]
        bottleneck = depth in BOTTLENECK
        widths = BOTTLENECK_WIDTHS if bottleneck else BASIC_WIDTHS
        self.input_layer = nn.Sequential(
            nn.Conv2d(3, STEM_CHANNELS, 3, 1, 1, bias=False),
            nn.BatchNorm2d(STEM_CHANNELS),
            PReLU(STEM_CHANNELS),
        )
        self.body = nn.Sequential(*_units(self.units, widths, bottleneck, se))
        self.output_layer = nn.Sequential(
            nn.BatchNorm2d(widths[-1]),
            nn.Dropout(0.4),
            nn.Flatten(),
            nn.Linear(widths[-1] * FINAL_SIZE_PX**2, embedding_size),
            nn.BatchNorm1d(embedding_size, affine=False),
        )

    def stage_ends(self) -> list[int]:
        """Index in `body` of the last unit of each of the four stages."""
        return [end - 1 for end in accumulate(self.units)]

    def segments(self) -> Sequence[Sequence[nn.Module]]:
        ends = [end + 1 for end in self.stage_ends()]
        first, *others = [list(self.body[a:b]) for a, b in zip([0, *ends[:-1]], ends, strict=True)]
        return [[self.input_layer, *first], *others, [self.output_layer]]


def _units(units: Sequence[int], widths: Sequence[int], bottleneck: bool, se: bool) -> list[Unit]:
    plan: list[Unit] = []
    in_channels = STEM_CHANNELS
    for count, channels in zip(units, widths, strict=True):
        for position in range(count):
            plan.append(Unit(in_channels, channels, 2 if position == 0 else 1, bottleneck, se))
            in_channels = channels
    return plan
