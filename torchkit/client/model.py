"""The client network: residual in, auxiliary features out.

    residual -> backbone -> 4 taps -> interface (1x1 convolution) -> block channel shuffle -> features

Two layouts. `native`: a feature map leaves at the client's resolution, and the server resizes it. `published`: the
client resizes first, so that a map leaves at the server's size; this is how published weights were trained. A 1x1
convolution commutes with a bilinear resize, so both give the server the same maps, apart from the borders of
shuffled blocks.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor, nn

from torchkit.backbone import NUM_TAPS, Backbone, Shape, canonical_name, get_model, resize
from torchkit.client.shuffle import BlockChannelShuffle, draw_key
from torchkit.util.pixels import CHANNEL_ORDERS

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

    def __post_init__(self) -> None:
        """Raises ValueError for what no client can be built from; the settings may come from a file."""
        canonical_name(self.backbone)
        if self.layout not in LAYOUTS:
            raise ValueError(f"layout {self.layout!r}: allowed are {', '.join(LAYOUTS)}")
        if self.channel_order not in CHANNEL_ORDERS:
            raise ValueError(f"channel order {self.channel_order!r}: allowed are {', '.join(CHANNEL_ORDERS)}")
        if len(self.server_shapes) != NUM_TAPS:
            raise ValueError(f"{len(self.server_shapes)} server maps: expected {NUM_TAPS}")
        if not set(self.shuffle_taps) <= set(range(1, NUM_TAPS + 1)) or self.shuffle_block_px < 1:
            raise ValueError(
                f"shuffle of taps {list(self.shuffle_taps)} in blocks of {self.shuffle_block_px} pixels: "
                f"allowed are taps 1..{NUM_TAPS} and blocks from 1"
            )

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

    def start_interfaces(self, how: str) -> None:
        """Set the interfaces to where training starts.

        Args:
            how: "zero": no features, the server starts as if it got none; "identity": the taps themselves, channel
                by channel, for a backbone with the recogniser's own weights; "random": as published.
        """
        for interface in self.interfaces:
            assert isinstance(interface, nn.Conv2d)
            if how == "random":
                interface.reset_parameters()
                continue
            (nn.init.zeros_ if how == "zero" else nn.init.dirac_)(interface.weight)
            assert interface.bias is not None
            nn.init.zeros_(interface.bias)

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
    return server if layout == "published" else (server[0], *tap[1:])
