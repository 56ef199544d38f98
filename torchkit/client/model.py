"""The client network: residual in, auxiliary features out.

    residual -> backbone -> 4 taps -> interface (1x1 convolution) -> block channel shuffle -> features

Two layouts. `native`: a feature map leaves at the client's resolution (or the server's, where that is smaller),
and the server resizes it. `published`: the client resizes first, so that a map leaves at the server's size; this
is how published weights were trained. A 1x1 convolution commutes with a resize, so both give the server the same
maps, apart from the borders of shuffled blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from torchkit.backbone import Backbone, Shape, get_model
from torchkit.client.shuffle import BlockChannelShuffle, draw_key

LAYOUTS = ("native", "published")


@dataclass(frozen=True)
class ClientSettings:
    """Everything that is needed to build a client; stored in its file."""

    server_shapes: tuple[Shape, ...]
    """(C, H, W) of the server's maps at its four taps."""
    backbone: str = "mobilefacenet"
    layout: str = "native"
    channel_order: str = "rgb"
    shuffle_taps: tuple[int, ...] = (1,)
    """Taps, counted from 1, whose features are shuffled."""
    shuffle_block_px: int = 14

    def as_dict(self) -> dict[str, Any]:
        """In types that a weight file may hold."""
        return {key: list(map(list, value)) if key == "server_shapes" else value for key, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ClientSettings:
        shapes = tuple((int(c), int(h), int(w)) for c, h, w in values["server_shapes"])
        return cls(**{**values, "server_shapes": shapes, "shuffle_taps": tuple(values["shuffle_taps"])})


class Client(nn.Module):
    """The network on the phone.

    Args:
        settings: what to build.
        key_seed: seed of the key; None: from the operating system.

    Shape: residual (B, 3, 112, 112), in [-2, 2], in `settings.channel_order` -> list of four (B, C_i, h_i, w_i),
    with the server's channels C_i.
    """

    def __init__(self, settings: ClientSettings, key_seed: int | None = None) -> None:
        super().__init__()
        assert settings.layout in LAYOUTS, settings.layout
        self.settings = settings
        self.backbone = headless(get_model(settings.backbone))
        taps = self.backbone.tap_shapes()
        self.feature_shapes = [
            _feature_shape(tap, server, settings.layout)
            for tap, server in zip(taps, settings.server_shapes, strict=True)
        ]
        self.interfaces = nn.ModuleList(
            nn.Conv2d(tap[0], shape[0], 1) for tap, shape in zip(taps, self.feature_shapes, strict=True)
        )
        self.shuffles = nn.ModuleDict()
        for tap in settings.shuffle_taps:
            shape = self.feature_shapes[tap - 1]
            key = draw_key(shape, settings.shuffle_block_px, key_seed, f"tap {tap}")
            self.shuffles[str(tap)] = BlockChannelShuffle(shape, settings.shuffle_block_px, key)

    def forward(self, residual: Tensor) -> list[Tensor]:
        return [self._feature(index, tap) for index, tap in enumerate(self.backbone.taps(residual))]

    def _feature(self, index: int, tap: Tensor) -> Tensor:
        feature = resize(tap, self.feature_shapes[index][1:])
        feature = self.interfaces[index](feature)
        name = str(index + 1)
        return self.shuffles[name](feature) if name in self.shuffles else feature


def headless(backbone: Backbone) -> Backbone:
    """`backbone` without the layers after its last tap: a client has no use for an embedding of the residual."""
    unused = set(backbone.segments()[-1])
    for name, child in list(backbone.named_children()):
        if child in unused:
            setattr(backbone, name, nn.Identity())
    return backbone


def _feature_shape(tap: Shape, server: Shape, layout: str) -> Shape:
    channels, height, width = server
    if layout == "published":
        return server
    return channels, min(tap[1], height), min(tap[2], width)


def resize(x: Tensor, size: Sequence[int]) -> Tensor:
    """Bilinear resize (half-pixel centres) of (B, C, h, w) to `size`; x itself if it has that size."""
    if tuple(x.shape[-2:]) == tuple(size):
        return x
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=False)
