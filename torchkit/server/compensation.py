"""Compensation: the server adds to its own maps what the obfuscation took away.

After stage i the map s becomes s + sigmoid(s) * a_i * w_i (PRO-Face C, section III-D), with the client's features
a_i, resized to the map, and learned weights w_i.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchkit.backbone import NUM_TAPS, Backbone, Shape
from torchkit.server.recogniser import Recogniser


class Compensation(nn.Module):
    """The weights w_1..w_4, one number per element of the server's maps.

    Args:
        shapes: (C, H, W) of the server's maps at its four taps.
    """

    def __init__(self, shapes: Sequence[Shape]) -> None:
        super().__init__()
        self.weights = nn.ParameterList(torch.ones(shape) for shape in shapes)

    def forward(self, tap: int, state: Tensor, features: Tensor) -> Tensor:
        """Compensate the server's map at tap `tap` (0..3).

        Args:
            tap: which map.
            state: (B, C, H, W), the server's map s.
            features: (B, C, H, W), the client's a for this tap, aligned with the map.
        """
        return state + torch.sigmoid(state) * features * self.weights[tap]


class CompensatedServer(nn.Module):
    """A frozen recogniser with a compensation head.

    Shape: pictures (B, 3, 112, 112) uint8 RGB and four feature maps (B, C_i, h_i, w_i) -> (B, D), unit length.
    """

    def __init__(self, recogniser: Recogniser) -> None:
        super().__init__()
        self.recogniser = recogniser
        self.compensation = Compensation(recogniser.backbone.tap_shapes())

    def trace(self, images: Tensor, features: Sequence[Tensor]) -> tuple[list[Tensor], Tensor]:
        """The compensated maps (B, C_i, H_i, W_i) at the four taps, and the embedding (B, D), unit length."""
        backbone = self.recogniser.backbone
        x = self.recogniser.prepare(images)
        maps = []
        for tap in range(NUM_TAPS):
            x = backbone.run_segment(tap, x)
            x = self.compensation(tap, x, aligned(backbone, tap, features[tap], x.shape[-2:]))
            maps.append(x)
        return maps, F.normalize(backbone.run_segment(NUM_TAPS, x).float())

    def forward(self, images: Tensor, features: Sequence[Tensor]) -> Tensor:
        return self.trace(images, features)[1]


def aligned(backbone: Backbone, tap: int, features: Tensor, size: Sequence[int]) -> Tensor:
    """Features (B, C, h, w) at the map's `size`; those that left at that size (published layout) stay as they are."""
    return features if tuple(features.shape[-2:]) == tuple(size) else backbone.align(tap, features, size)
