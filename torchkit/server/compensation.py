"""Compensation: the server adds to its own maps what the obfuscation took away.

After stage i the map s becomes, with the client's features a_i, resized to the map, and learned weights w_i, what
`FORMS` says. Where the client sends fewer channels than the map has (CLIENT.BOTTLENECK), a_i is what a `MapDecoder`
makes of them. With an embedding a_5 that the client sends, the server's own e, brought to unit length, becomes
v_5 e + w_5 a_5.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Literal, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from torchkit.backbone import NUM_TAPS, Backbone, Shape
from torchkit.server.map_decoder import MapDecoder
from torchkit.server.recogniser import Recogniser
from torchkit.util.modules import typed_modules
from torchkit.util.settings import UPPER_CASE_KEYS, one_of


def gate(s: Tensor, a: Tensor, weights: Tensor) -> Tensor:
    """s + sigmoid(s) * a * w, as published (PRO-Face C, section III-D)."""
    return s + torch.sigmoid(s) * a * weights


def add(s: Tensor, a: Tensor, weights: Tensor) -> Tensor:
    """s + a * w: exact where a is what the map lacks."""
    return s + a * weights


def film(s: Tensor, a: Tensor, weights: Tensor, scales: Tensor) -> Tensor:
    """s * (1 + a * v) + a * w: FiLM (Perez et al., AAAI 2018, arXiv 1709.07871); v is learned too."""
    return s + s * a * scales + a * weights


class Form(NamedTuple):
    """A way to compensate a map."""

    compensate: Callable[..., Tensor]
    """Map s (B, C, H, W), features a of the same shape, and by name the parameters of the tap -> the new map."""
    parameters: Mapping[str, float] = {"weights": 1.0}
    """What is learned at each tap, and the value that it starts with."""


FORMS = {
    "gate": Form(gate),
    "add": Form(add),
    "film": Form(film, {"weights": 1.0, "scales": 0.0}),
}


MAX_DECODER_WIDTH, MAX_DECODER_BLOCKS = 1024, 64
"""Limits to what a file may ask for."""


@dataclass(frozen=True, config=UPPER_CASE_KEYS)
class CompensationSettings:
    """How a server uses features; stored in client and server files. The defaults are the published form.

    Raises:
        ValueError: a form or a scope that there is not.
    """

    form: Annotated[str, one_of(FORMS)] = "gate"
    """A key of `FORMS`."""
    weights_per: Literal["element", "channel"] = "element"
    """element: a weight for each place of a map, as published; channel: one for all places of a channel."""
    decoder_width: Annotated[int, Field(ge=1, le=MAX_DECODER_WIDTH)] = 64
    """Hidden channels of the decoders of bottlenecks."""
    decoder_blocks: Annotated[int, Field(ge=0, le=MAX_DECODER_BLOCKS)] = 0
    """Their residual blocks."""


PUBLISHED = CompensationSettings()


class Compensation(nn.Module):
    """What is learned at each tap: the weights w_1..w_4, with the form "film" v_1..v_4, and decoders of bottlenecks.

    Args:
        shapes: (C, H, W) of the server's maps at its four taps.
        settings: form, what a weight is for, and the decoders' size.
        feature_shapes: (K, h, w) of the client's features; fewer channels than a map's are decoded, and a fifth shape
            (D, 1, 1) is that of an embedding. None: as the maps'.
    """

    weights: nn.ParameterList

    def __init__(
        self, shapes: Sequence[Shape], settings: CompensationSettings = PUBLISHED,
        feature_shapes: Sequence[Shape] | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.settings = settings
        self.decoders: dict[str, MapDecoder] = typed_modules()
        feature_shapes = feature_shapes or shapes
        for tap, (shape, (channels, *size)) in enumerate(zip(shapes, feature_shapes[:NUM_TAPS], strict=True)):
            if channels != shape[0]:
                width, blocks = settings.decoder_width, settings.decoder_blocks
                self.decoders[str(tap + 1)] = MapDecoder(channels, (size[0], size[1]), shape, width, blocks)
        if settings.weights_per == "channel":
            shapes = [(channels, 1, 1) for channels, _, _ in shapes]
        if len(feature_shapes) > NUM_TAPS:
            self.embedding_weights = nn.Parameter(torch.ones(feature_shapes[NUM_TAPS][0]))
            self.own_embedding_weights = nn.Parameter(torch.ones(feature_shapes[NUM_TAPS][0]))
        for name, start in FORMS[settings.form].parameters.items():
            setattr(self, name, nn.ParameterList(torch.full(shape, start) for shape in shapes))

    def prepare(self, tap: int, features: Tensor) -> Tensor:
        """Features as they come (B, K, h, w) -> what is then aligned with the map at tap `tap` (0..3)."""
        name = str(tap + 1)
        return self.decoders[name].upsample(features) if name in self.decoders else features

    def forward(self, tap: int, state: Tensor, features: Tensor) -> Tensor:
        """Compensate the server's map at tap `tap` (0..3).

        Args:
            tap: which map.
            state: (B, C, H, W), the server's map s.
            features: (B, C, H, W), prepared and aligned with the map; (B, width, H, W) where a decoder follows.
        """
        name = str(tap + 1)
        if name in self.decoders:
            features = self.decoders[name](features, state)
        form = FORMS[self.settings.form]
        return form.compensate(state, features, **{name: getattr(self, name)[tap] for name in form.parameters})

    def embedding(self, embedding: Tensor, features: Sequence[Tensor]) -> Tensor:
        """The server's embedding (B, D) with the client's, (B, D, 1, 1) at the end of its features, if it sends one."""
        if len(features) == NUM_TAPS:
            return embedding
        own = self.own_embedding_weights * F.normalize(embedding)
        return own + self.embedding_weights * features[NUM_TAPS].flatten(1)


class CompensatedServer(nn.Module):
    """A frozen recogniser with a compensation head.

    Args:
        recogniser: whose maps are compensated.
        settings: how.
        feature_shapes: (K_i, h_i, w_i) of the client's features, that of an embedding last; None: they have the maps'
            channels.

    Shape: images (B, 3, 112, 112) uint8 RGB and four feature maps (B, K_i, h_i, w_i), (B, D, 1, 1) behind them if the
    client sends an embedding -> (B, D), unit length.
    """

    def __init__(
        self, recogniser: Recogniser, settings: CompensationSettings = PUBLISHED,
        feature_shapes: Sequence[Shape] | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.recogniser = recogniser
        self.compensation = Compensation(recogniser.backbone.tap_shapes(), settings, feature_shapes)

    def taps(self, images: Tensor, features: Sequence[Tensor], count: int = NUM_TAPS) -> list[Tensor]:
        """The compensated maps (B, C_i, H_i, W_i) at the first `count` taps; no more is computed."""
        backbone = self.recogniser.backbone
        x = self.recogniser.prepare(images)
        maps = []
        for tap in range(count):
            x = backbone.run_segment(tap, x)
            prepared = self.compensation.prepare(tap, features[tap])
            x = self.compensation(tap, x, aligned(backbone, tap, prepared, x.shape[-2:]))
            maps.append(x)
        return maps

    def forward_intermediates(self, images: Tensor, features: Sequence[Tensor]) -> tuple[list[Tensor], Tensor]:
        """The compensated maps (B, C_i, H_i, W_i) at the four taps, and the embedding (B, D), not normalised."""
        maps = self.taps(images, features)
        embedding = self.recogniser.backbone.run_segment(NUM_TAPS, maps[-1]).float()
        return maps, self.compensation.embedding(embedding, features)

    def forward(self, images: Tensor, features: Sequence[Tensor]) -> Tensor:
        return F.normalize(self.forward_intermediates(images, features)[1])


def aligned(backbone: Backbone, tap: int, features: Tensor, size: Sequence[int]) -> Tensor:
    """Features (B, C, h, w) at the map's `size`; those that left at that size (published layout) stay as they are."""
    return features if tuple(features.shape[-2:]) == tuple(size) else backbone.align(tap, features, size)
