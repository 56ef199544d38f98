"""The server's half of a bottleneck: what a map lacks, from the few channels that were sent and the map itself."""

from __future__ import annotations

from torch import Tensor, nn

from torchkit.backbone import Shape
from torchkit.backbone.prelu import PReLU


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with batch norms beside a skip.

    Shape: (B, channels, H, W) -> the same.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *convolution(channels, channels), PReLU(channels), *convolution(channels, channels),
        )  # fmt: skip
        self.activation = PReLU(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(x + self.body(x))


class MapDecoder(nn.Module):
    """A small network on the server, trained with the client.

        hidden = PReLU(upsampled features + 1x1 convolution of the server's map)
        a      = 1x1 convolution of what a 3x3 convolution and `blocks` residual blocks make of hidden

    The last convolution starts at zero: the server starts as if nothing had been sent. What it gives is in units of the
    map's own deviation, channel by channel, so that it learns as fast whatever the scale of a recogniser's maps.

    Args:
        channels: of the features.
        size: (h, w) of the features.
        server: (C, H, W) of the server's map; features of an integer fraction of its size are upsampled by pixel
            shuffle (Shi et al., CVPR 2016), others stay at theirs.
        width: hidden channels.
        blocks: residual blocks.

    Shape: `upsample`: features (B, channels, h, w) -> (B, width, h * factor, w * factor).
    """

    def __init__(self, channels: int, size: tuple[int, int], server: Shape, width: int, blocks: int) -> None:
        super().__init__()
        factor = integer_factor(size, server[1:])
        self.upsample = nn.Sequential(*convolution(channels, width * factor**2), nn.PixelShuffle(factor))
        self.norm = nn.BatchNorm2d(server[0])
        self.side = nn.Conv2d(server[0], width, 1)
        self.activation = PReLU(width)
        self.body = nn.Sequential(
            *convolution(width, width), PReLU(width), *(ResidualBlock(width) for _ in range(blocks))
        )
        self.out = nn.Conv2d(width, server[0], 1)
        nn.init.zeros_(self.out.weight)
        assert self.out.bias is not None
        nn.init.zeros_(self.out.bias)

    def forward(self, upsampled: Tensor, state: Tensor) -> Tensor:
        """What the map lacks, (B, C, H, W).

        Args:
            upsampled: (B, width, H, W), what `upsample` makes of features, aligned with the map.
            state: (B, C, H, W), the server's map.
        """
        hidden = self.activation(upsampled + self.side(self.norm(state)))
        variance = self.norm.running_var
        assert variance is not None
        return self.out(self.body(hidden)) * variance.sqrt().view(1, -1, 1, 1)


def convolution(in_channels: int, channels: int) -> tuple[nn.Module, nn.Module]:
    """3x3 convolution and batch norm."""
    return nn.Conv2d(in_channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)


def integer_factor(size: tuple[int, int], target: tuple[int, int]) -> int:
    """How many times (h, w) `size` goes into `target`; 1 where it does not go into both sides alike."""
    factor = target[0] // size[0]
    return factor if factor > 1 and (size[0] * factor, size[1] * factor) == tuple(target) else 1
