"""InsightFace's IResNet, with the parameter names of arcface_torch's weights.

Residual unit: Deng et al., ArcFace, CVPR 2019, section 3.1 (BN-Conv-BN-PReLU-Conv-BN), as in `torchkit.backbone.ir`.
It differs from IR in that the first unit of every stage, including the first, has a convolution in its shortcut, no
depth has bottlenecks, and the embedding's batch norm has a shift.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from torch import Tensor, nn

from torchkit.backbone.base import Backbone
from torchkit.backbone.prelu import PReLU

STEM_CHANNELS = 64
WIDTHS = (64, 128, 256, 512)
FINAL_SIZE_PX = 7
UNITS = {
    "iresnet_18": (2, 2, 2, 2),
    "iresnet_34": (3, 4, 6, 3),
    "iresnet_50": (3, 4, 14, 3),
    "iresnet_100": (3, 13, 30, 3),
    "iresnet_200": (6, 26, 60, 6),
}


class Unit(nn.Module):
    """One residual unit; halves the size when `stride` is 2."""

    runs_in_order = True

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.prelu = PReLU(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or in_channels != channels:
            conv = nn.Conv2d(in_channels, channels, 1, stride, bias=False)
            self.downsample = nn.Sequential(conv, nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        out = self.prelu(self.bn2(self.conv1(self.bn1(x))))
        return self.bn3(self.conv2(out)) + self.downsample(x)


class IResNet(Backbone):
    """IResNet-18 ... IResNet-200.

    Args:
        depth: a key of `UNITS`, e.g. "iresnet_50".
        embedding_size: length of the embedding.

    Shape: (B, 3, 112, 112) in [-1, 1] -> (B, embedding_size). Taps: the ends of the four stages, at 56, 28, 14 and
    7 pixels. Without dropout, as arcface_torch trains it.
    """

    runs_in_order = True

    def __init__(self, depth: str, embedding_size: int = 512) -> None:
        super().__init__()
        self.embedding_size = embedding_size
        self.units = UNITS[depth]
        self.conv1 = nn.Conv2d(3, STEM_CHANNELS, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(STEM_CHANNELS)
        self.prelu = PReLU(STEM_CHANNELS)
        self.layer1, self.layer2, self.layer3, self.layer4 = (
            _stage(count, in_channels, channels)
            for count, in_channels, channels in zip(self.units, (STEM_CHANNELS, *WIDTHS), WIDTHS, strict=False)
        )
        self.bn2 = nn.BatchNorm2d(WIDTHS[-1])
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(WIDTHS[-1] * FINAL_SIZE_PX**2, embedding_size)
        self.features = nn.BatchNorm1d(embedding_size)
        self.features.weight.requires_grad_(False)  # stays 1: the head normalises the embedding anyway

    def stage_ends(self) -> list[int]:
        """Number of the last unit of each of the four stages, counted through all of them from 0."""
        return [end - 1 for end in accumulate(self.units)]

    def segments(self) -> Sequence[Sequence[nn.Module]]:
        return [
            [self.conv1, self.bn1, self.prelu, self.layer1],
            [self.layer2],
            [self.layer3],
            [self.layer4],
            [self.bn2, self.flatten, self.fc, self.features],
        ]


def _stage(count: int, in_channels: int, channels: int) -> nn.Sequential:
    return nn.Sequential(
        Unit(in_channels, channels, stride=2), *(Unit(channels, channels, stride=1) for _ in range(count - 1))
    )
