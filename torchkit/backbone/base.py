"""The interface of all networks: five segments between four taps, and the shapes of their maps."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchkit.util.pixels import INPUT_SIZE_PX

Shape = tuple[int, int, int]
"""(channels, height, width) of a feature map."""

NUM_TAPS = 4


class Backbone(nn.Module):
    """A face network cut at four taps.

    Subclasses name their modules as the published weight files do and list in `segments` the order in
    which they run. The client reads the maps at the taps, the server compensates them, both through `segments` alone.
    """

    embedding_size: int
    input_channels: int = 3

    def segments(self) -> Sequence[Sequence[nn.Module]]:
        """List the modules of the five segments: up to taps 1, 2, 3 and 4, and the rest, which makes the embedding."""
        raise NotImplementedError

    def run_segment(self, index: int, x: Tensor) -> Tensor:
        """Run segment `index` (0..4) on `x`."""
        for module in self.segments()[index]:
            x = module(x)
        return x

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, 112, 112) in [-1, 1] -> (B, embedding_size), not normalised."""
        for index in range(NUM_TAPS + 1):
            x = self.run_segment(index, x)
        return x

    def taps(self, x: Tensor, count: int = NUM_TAPS) -> list[Tensor]:
        """(B, 3, 112, 112) in [-1, 1] -> the maps (B, C_i, H_i, W_i) at the first `count` taps; the rest is not run."""
        maps = []
        for index in range(count):
            x = self.run_segment(index, x)
            maps.append(x)
        return maps

    def align(self, tap: int, features: Tensor, size: Sequence[int]) -> Tensor:
        """Bring features in the image's frame (B, C, h, w) to the `size` (H, W) of the map at tap `tap` (0..3).

        Bilinear, unless the network warps its input.
        """
        return resize(features, size)

    @torch.no_grad()
    def tap_shapes(self) -> list[Shape]:
        """Run one 112x112 image and return the shapes (C_i, H_i, W_i) of the four maps."""
        was_training = self.training
        device = next(self.parameters()).device
        image = torch.zeros(1, self.input_channels, INPUT_SIZE_PX, INPUT_SIZE_PX, device=device)
        maps = self.eval().taps(image)
        self.train(was_training)
        return [(m.shape[1], m.shape[2], m.shape[3]) for m in maps]


def resize(x: Tensor, size: Sequence[int]) -> Tensor:
    """Resize (B, C, h, w) to `size`, bilinear with half-pixel centres; return x itself if it has that size."""
    if tuple(x.shape[-2:]) == tuple(size):
        return x
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=False)
