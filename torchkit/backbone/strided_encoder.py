"""A light client: three strided convolutions, as in learned image compression (Balle et al., ICLR 2017)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from torchkit.backbone.base import Backbone
from torchkit.backbone.prelu import PReLU

WIDTHS = (16, 48, 96)
"""Channels at strides 2, 4 and 8."""


class StridedConvolution(nn.Sequential):
    """Convolution, batch norm, PReLU.

    Shape: (B, in_channels, H, W) -> (B, channels, H / stride, W / stride).
    """

    def __init__(self, in_channels: int, channels: int, kernel: int, stride: int = 2) -> None:
        super().__init__(
            nn.Conv2d(in_channels, channels, kernel, stride, kernel // 2, bias=False),
            nn.BatchNorm2d(channels),
            PReLU(channels),
        )


class EmbeddingHead(nn.Sequential):
    """Global depth-wise convolution and a linear map.

    Shape: (B, channels, side_px, side_px) -> (B, embedding_size).
    """

    def __init__(self, channels: int, side_px: int, embedding_size: int) -> None:
        super().__init__(
            nn.Conv2d(channels, channels, side_px, groups=channels, bias=False),
            nn.BatchNorm2d(channels),
            nn.Flatten(),
            nn.Linear(channels, embedding_size),
        )


class StridedEncoder(Backbone):
    """An encoder of 17 million multiply-adds up to its first tap, the one that a light client sends.

    Three dense convolutions, which run several times as many multiply-adds a second as depth-wise ones, reduce a face
    to 14x14 positions of 96 channels. The layers after them make an embedding, for the client alone.

    Shape: (B, 3, 112, 112) in [-1, 1] -> (B, embedding_size). Taps: 96x14x14, 128x7x7, 128x7x7 and 512x7x7.
    """

    def __init__(self, embedding_size: int = 512) -> None:
        super().__init__()
        self.embedding_size = embedding_size
        self.stem = StridedConvolution(3, WIDTHS[0], 5)
        self.stride_4 = StridedConvolution(WIDTHS[0], WIDTHS[1], 3)
        self.stride_8 = StridedConvolution(WIDTHS[1], WIDTHS[2], 3)
        self.stride_16 = StridedConvolution(WIDTHS[2], 128, 3)
        self.mix = StridedConvolution(128, 128, 3, stride=1)
        self.expand = StridedConvolution(128, 512, 1, stride=1)
        self.output_layer = EmbeddingHead(512, 7, embedding_size)

    def segments(self) -> Sequence[Sequence[nn.Module]]:
        return [
            [self.stem, self.stride_4, self.stride_8],
            [self.stride_16],
            [self.mix],
            [self.expand],
            [self.output_layer],
        ]
