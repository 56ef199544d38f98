"""Compensation: the server adds to its own maps what the obfuscation took away.

After stage i the map s becomes s + sigmoid(s) * a_i * w_i (PRO-Face C, section III-D), with the client's features
a_i, resized to the map, and learned weights w_i.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchkit.backbone import NUM_TAPS, Shape
from torchkit.client import resize
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
            features: (B, C, h, w), the client's a for this tap, at any size.
        """
        features = resize(features, state.shape[-2:])
        return state + torch.sigmoid(state) * features * self.weights[tap]


class CompensatedServer(nn.Module):
    """A frozen recogniser with a compensation head.

    Shape: pictures (B, 3, 112, 112) uint8 RGB and four feature maps (B, C_i, h_i, w_i) -> (B, D), unit length.
    """

    def __init__(self, recogniser: Recogniser) -> None:
        super().__init__()
        self.recogniser = recogniser
        self.compensation = Compensation(recogniser.backbone.tap_shapes())

    def forward(self, images: Tensor, features: Sequence[Tensor]) -> Tensor:
        backbone = self.recogniser.backbone
        x = self.recogniser.prepare(images)
        for tap in range(NUM_TAPS):
            x = self.compensation(tap, backbone.run_segment(tap, x), features[tap])
        return F.normalize(backbone.run_segment(NUM_TAPS, x).float())
