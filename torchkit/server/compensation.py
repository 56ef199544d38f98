"""Compensation: the server adds to its own maps what the obfuscation took away.

After stage i the map s becomes, with the client's features a_i, resized to the map, and learned weights w_i,

    gate   s + sigmoid(s) * a_i * w_i                  as published (PRO-Face C, section III-D)
    add    s + a_i * w_i                               exact where a_i is what the map lacks
    film   s * (1 + a_i * v_i) + a_i * w_i             FiLM (Perez et al., AAAI 2018, arXiv 1709.07871); v_i learned too
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchkit.backbone import NUM_TAPS, Backbone, Shape
from torchkit.server.recogniser import Recogniser

FORMS = ("gate", "add", "film")
SCOPES = ("element", "channel")


@dataclass(frozen=True)
class CompensationSettings:
    """How a server uses features; stored in client and server files."""

    form: str = "gate"
    weights_per: str = "element"
    """element: a weight for each place of a map, as published; channel: one for all places of a channel."""

    def __post_init__(self) -> None:
        """Raises ValueError for what there is not; the settings may come from a file."""
        for value, allowed in ((self.form, FORMS), (self.weights_per, SCOPES)):
            if value not in allowed:
                raise ValueError(f"compensation {value!r}: allowed are {', '.join(allowed)}")


PUBLISHED = CompensationSettings()


class Compensation(nn.Module):
    """The weights w_1..w_4, and v_1..v_4 of the form "film".

    Args:
        shapes: (C, H, W) of the server's maps at its four taps.
        settings: form, and what a weight is for.
    """

    def __init__(self, shapes: Sequence[Shape], settings: CompensationSettings = PUBLISHED) -> None:
        super().__init__()
        self.settings = settings
        if settings.weights_per == "channel":
            shapes = [(channels, 1, 1) for channels, _, _ in shapes]
        self.weights = nn.ParameterList(torch.ones(shape) for shape in shapes)
        if settings.form == "film":
            self.scales = nn.ParameterList(torch.zeros(shape) for shape in shapes)

    def forward(self, tap: int, state: Tensor, features: Tensor) -> Tensor:
        """Compensate the server's map at tap `tap` (0..3).

        Args:
            tap: which map.
            state: (B, C, H, W), the server's map s.
            features: (B, C, H, W), the client's a for this tap, aligned with the map.
        """
        if self.settings.form == "gate":
            return state + torch.sigmoid(state) * features * self.weights[tap]
        if self.settings.form == "film":
            state = state + state * features * self.scales[tap]
        return state + features * self.weights[tap]


class CompensatedServer(nn.Module):
    """A frozen recogniser with a compensation head.

    Shape: images (B, 3, 112, 112) uint8 RGB and four feature maps (B, C_i, h_i, w_i) -> (B, D), unit length.
    """

    def __init__(self, recogniser: Recogniser, settings: CompensationSettings = PUBLISHED) -> None:
        super().__init__()
        self.recogniser = recogniser
        self.compensation = Compensation(recogniser.backbone.tap_shapes(), settings)

    def forward_intermediates(self, images: Tensor, features: Sequence[Tensor]) -> tuple[list[Tensor], Tensor]:
        """The compensated maps (B, C_i, H_i, W_i) at the four taps, and the embedding (B, D), not normalised."""
        backbone = self.recogniser.backbone
        x = self.recogniser.prepare(images)
        maps = []
        for tap in range(NUM_TAPS):
            x = backbone.run_segment(tap, x)
            x = self.compensation(tap, x, aligned(backbone, tap, features[tap], x.shape[-2:]))
            maps.append(x)
        return maps, backbone.run_segment(NUM_TAPS, x).float()

    def forward(self, images: Tensor, features: Sequence[Tensor]) -> Tensor:
        return F.normalize(self.forward_intermediates(images, features)[1])


def aligned(backbone: Backbone, tap: int, features: Tensor, size: Sequence[int]) -> Tensor:
    """Features (B, C, h, w) at the map's `size`; those that left at that size (published layout) stay as they are."""
    return features if tuple(features.shape[-2:]) == tuple(size) else backbone.align(tap, features, size)
