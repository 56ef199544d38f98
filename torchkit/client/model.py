"""The client network: residual in, auxiliary features out.

    residual -> backbone -> 4 taps -> interface (1x1 convolution) -> block channel shuffle -> prune -> quantise

Two layouts. `native`: a feature map leaves at the client's resolution, and the server resizes it. `published`: the
client resizes first, so that a map leaves at the server's size; this is how published weights were trained. A 1x1
convolution commutes with a bilinear resize, so both give the server the same maps, apart from the borders of
shuffled blocks.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchkit.backbone import NUM_TAPS, Backbone, Shape, canonical_name, get_model, resize
from torchkit.client.frequencies import FrequencyTable
from torchkit.client.prune import Pruner, check_shares
from torchkit.client.quantise import FLOAT_BITS, Quantiser, check_bits
from torchkit.client.shuffle import BlockChannelShuffle, draw_key
from torchkit.util.modules import typed_modules
from torchkit.util.pixels import CHANNEL_ORDERS, ChannelOrder, network_input, residual

Layout = Literal["native", "published"]
Input = Literal["residual", "both", "difference", "clear"]
EmbeddingStart = Literal["zero", "ridge"]
InterfaceStart = Literal["zero", "identity", "random"]
CodingKind = Literal["packed", "range"]
LAYOUTS, INPUTS, CODINGS = get_args(Layout), get_args(Input), get_args(CodingKind)
TAP_NAMES = tuple(str(tap) for tap in range(1, NUM_TAPS + 1))
EMBEDDING_TAP = str(NUM_TAPS + 1)
MAX_EMBEDDING_SIZE = 4096
"""Limit to what a file may ask for; messages have the same."""
STORED_NAMES = {"image_quality": "picture_quality"}
"""Settings that client files, and with them fingerprints, know by an older name."""


@dataclass(frozen=True)
class ClientSettings:
    """Everything that is needed to build a client; stored in its file."""

    server_shapes: tuple[Shape, ...]
    """(C, H, W) of the server's maps at its four taps."""
    backbone: str = "mobilefacenet"
    layout: Layout = "native"
    channel_order: ChannelOrder = "rgb"
    input: Input = "residual"
    """residual: clear minus obfuscated; both: that and the obfuscated image, which the server has anyway;
    difference: the backbone's maps of the clear image minus its maps of the obfuscated one; clear: the clear image,
    where what the server's own map holds already is its decoder's business."""
    bottleneck: tuple[int, ...] = (0,) * NUM_TAPS
    """Channels that each tap is reduced to before it leaves; 0: it gets the server's channels."""
    shuffle_taps: tuple[int, ...] = (1,)
    """Taps, counted from 1, whose features are shuffled."""
    shuffle_block_px: int = 14
    bits: tuple[int, ...] = (FLOAT_BITS,) * NUM_TAPS
    """Of each tap's features: 1, 2, 4, 8, or 32 for float32."""
    pruned_channels: tuple[float, ...] = (0.0,) * NUM_TAPS
    """Share of each tap's channels that is never sent."""
    pruned_values: tuple[float, ...] = (0.0,) * NUM_TAPS
    """Share of the values of the other channels that is sent as zero."""
    image_quality: int | None = None
    """Of the obfuscated image: None lossless, 0..100 lossy WebP."""
    last_tap: int = NUM_TAPS
    """The last tap that the client has: what follows in the backbone is left out, and later taps are never sent."""
    embedding_size: int = 0
    """Values of the embedding that is sent as a fifth tap, as many as the server's has; 0: none is sent."""
    embedding_bits: int = FLOAT_BITS
    """Of a value of that embedding."""
    coding: CodingKind = "packed"
    """Of quantised features in messages. packed: version 1, packed codes, compressed where that is shorter; range:
    version 2, a range coder with the frequencies of codes in the client's file."""

    def without_compression(self) -> ClientSettings:
        """The settings of the same client that sends all maps as they are: what two must share to share weights."""
        none = ClientSettings(self.server_shapes)
        return replace(
            self, bits=none.bits, pruned_channels=none.pruned_channels, pruned_values=none.pruned_values,
            image_quality=none.image_quality, last_tap=none.last_tap, embedding_bits=none.embedding_bits,
            coding=none.coding,
        )  # fmt: skip

    def __post_init__(self) -> None:
        """Raises ValueError for what no client can be built from; the settings may come from a file."""
        canonical_name(self.backbone)
        if self.layout not in LAYOUTS:
            raise ValueError(f"layout {self.layout!r}: allowed are {', '.join(LAYOUTS)}")
        if self.channel_order not in CHANNEL_ORDERS:
            raise ValueError(f"channel order {self.channel_order!r}: allowed are {', '.join(CHANNEL_ORDERS)}")
        if self.input not in INPUTS:
            raise ValueError(f"input {self.input!r}: allowed are {', '.join(INPUTS)}")
        if self.input == "both" and canonical_name(self.backbone) == "dlib_resnet":
            raise ValueError("input 'both' with dlib_resnet: that network takes three channels; take input 'residual'")
        if len(self.server_shapes) != NUM_TAPS:
            raise ValueError(f"{len(self.server_shapes)} server maps: expected {NUM_TAPS}")
        if not set(self.shuffle_taps) <= set(range(1, NUM_TAPS + 1)) or self.shuffle_block_px < 1:
            raise ValueError(
                f"shuffle of taps {list(self.shuffle_taps)} in blocks of {self.shuffle_block_px} pixels: "
                f"allowed are taps 1..{NUM_TAPS} and blocks from 1"
            )

        self._check_bottleneck()
        self._check_compression()
        self._check_embedding()

    def _check_bottleneck(self) -> None:
        if len(self.bottleneck) != NUM_TAPS:
            raise ValueError(f"bottleneck {list(self.bottleneck)}: expected {NUM_TAPS} numbers, one a tap")
        for tap, (channels, shape) in enumerate(zip(self.bottleneck, self.server_shapes, strict=True), start=1):
            if not 0 <= channels < shape[0]:
                raise ValueError(
                    f"bottleneck {list(self.bottleneck)}: tap {tap} has {shape[0]} channels at the server; allowed are "
                    f"1..{shape[0] - 1}, and 0 for none"
                )
        if any(self.bottleneck) and self.layout == "published":
            raise ValueError(
                f"bottleneck {list(self.bottleneck)} with layout 'published': the server enlarges what it decodes; "
                "take layout 'native'"
            )

    def _check_embedding(self) -> None:
        if self.last_tap not in range(NUM_TAPS + 1) or self.embedding_size not in range(MAX_EMBEDDING_SIZE + 1):
            raise ValueError(
                f"last tap {self.last_tap}, embedding of {self.embedding_size} values: allowed are taps 0..{NUM_TAPS} "
                f"and 0..{MAX_EMBEDDING_SIZE} values"
            )
        if self.embedding_size and self.last_tap < NUM_TAPS:
            raise ValueError(
                f"an embedding of {self.embedding_size} values with last tap {self.last_tap}: it is made of the last "
                f"map; take last tap {NUM_TAPS}"
            )
        check_bits((self.embedding_bits,))

    def _check_compression(self) -> None:
        checks = {"bits": check_bits, "pruned_channels": check_shares, "pruned_values": check_shares}
        for name, check in checks.items():
            values = getattr(self, name)
            if len(values) != NUM_TAPS:
                raise ValueError(f"{name} {list(values)}: expected {NUM_TAPS} numbers, one a tap")
            try:
                check(values)
            except ValueError as error:
                raise ValueError(f"{name} {error}") from error
        check_one_bit(self.bits, self.pruned_values, "bits", "pruned_values")
        if self.coding not in CODINGS:
            raise ValueError(f"coding {self.coding!r}: allowed are {', '.join(CODINGS)}")
        if self.image_quality is not None and self.image_quality not in range(101):
            raise ValueError(f"image quality {self.image_quality}: allowed are 0..100, or none for lossless")

    def as_dict(self) -> dict[str, Any]:
        """In types that a weight file may hold, under the names that files have had from the start."""
        values = asdict(self) | {"server_shapes": [list(shape) for shape in self.server_shapes]}
        return {STORED_NAMES.get(key, key): value for key, value in values.items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ClientSettings:
        shapes = tuple((int(c), int(h), int(w)) for c, h, w in values["server_shapes"])
        tuples = {key: tuple(value) for key, value in values.items() if isinstance(value, list | tuple)}
        known = {**values, **tuples, "server_shapes": shapes}
        names = {stored: name for name, stored in STORED_NAMES.items()}
        return cls(**{names.get(key, key): value for key, value in known.items()})


def check_one_bit(bits: Sequence[float], values: Sequence[float], bits_key: str, values_key: str) -> None:
    """Make sure that no tap of 1 bit has values to prune.

    Args:
        bits: of each tap.
        values: share of each tap's values that is pruned.
        bits_key, values_key: what the message calls them.

    Raises:
        ValueError: a tap has both.
    """
    if any(tap_bits == 1 and share for tap_bits, share in zip(bits, values, strict=True)):
        raise ValueError(
            f"{values_key} {list(values)} with {bits_key} {list(bits)}: codes of 1 bit have no zero; prune channels of "
            "that tap, or give it 2 bits"
        )


class Client(nn.Module):
    """The network on the phone.

    Args:
        settings: what to build.
        key_seed: seed of the key; None: from the operating system.

    Shape: what `prepare` makes of an image, (B, input_channels, 112, 112) in [-2, 2] -> list of four
    (B, K_i, h_i, w_i), with the server's channels or those of a bottleneck, and (B, D, 1, 1), if an embedding is sent.
    """

    def __init__(self, settings: ClientSettings, key_seed: int | None = None) -> None:
        super().__init__()
        self.settings = settings
        self.input_channels = 3 if settings.input in ("residual", "clear") else 6
        self.norms_are_frozen = False
        self.backbone = get_model(settings.backbone)
        if settings.input == "both":
            widen_input(self.backbone)
        taps = self.backbone.tap_shapes()
        if not settings.embedding_size:
            cut_backbone(self.backbone, settings.last_tap)
        self.feature_shapes = [
            _feature_shape(tap, server, settings.layout, channels)
            for tap, server, channels in zip(taps, settings.server_shapes, settings.bottleneck, strict=True)
        ]
        own = list(zip(TAP_NAMES, taps, self.feature_shapes, strict=True))[: settings.last_tap]
        self.interfaces = nn.ModuleList(nn.Conv2d(tap[0], shape[0], 1) for _, tap, shape in own)
        self.bottleneck_norms: dict[str, nn.BatchNorm2d] = typed_modules()
        """Bring what a bottleneck leaves to the deviation 1, for which a quantiser of few bits needs no other step."""
        self.shuffles: dict[str, BlockChannelShuffle] = typed_modules()
        for name, _, shape in own:
            if settings.bottleneck[int(name) - 1]:
                self.bottleneck_norms[name] = nn.BatchNorm2d(shape[0], affine=False)
            if int(name) in settings.shuffle_taps:
                key = self._draw_key(name, key_seed)
                self.shuffles[name] = BlockChannelShuffle(shape, settings.shuffle_block_px, key)
        if settings.embedding_size:
            self.embedding_interface = nn.Linear(self.backbone.embedding_size, settings.embedding_size)
            self.feature_shapes.append((settings.embedding_size, 1, 1))
        self._build_compression()

    def _build_compression(self) -> None:
        settings = self.settings
        self.pruners: dict[str, Pruner] = typed_modules()
        self.quantisers: dict[str, Quantiser] = typed_modules()
        self.frequencies: dict[str, FrequencyTable] = typed_modules()
        forms = list(zip(settings.bits, settings.pruned_channels, settings.pruned_values, strict=True))
        forms = forms[: settings.last_tap]
        if settings.embedding_size:
            forms.append((settings.embedding_bits, 0.0, 0.0))
        for name, shape, (bits, *shares) in zip(self.tap_names, self.feature_shapes, forms, strict=False):
            if any(shares):
                self.pruners[name] = Pruner(shape[0], shares[0], shares[1])
            if bits != FLOAT_BITS:
                self.quantisers[name] = Quantiser(bits)
                if settings.coding == "range" and shares[0] < 1:
                    self.frequencies[name] = FrequencyTable(shape, bits)

    @property
    def tap_names(self) -> tuple[str, ...]:
        """ "1" to "4", and "5" if an embedding is sent."""
        return (*TAP_NAMES, EMBEDDING_TAP)[: len(self.feature_shapes)]

    def freeze_norms(self) -> None:
        """Keep the backbone's batch norms as they are, in training too: for a backbone that starts from weights."""
        self.norms_are_frozen = True
        self.train(self.training)

    def train(self, mode: bool = True) -> Client:
        super().train(mode)
        if self.norms_are_frozen:
            for module in self.backbone.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        return self

    def _draw_key(self, name: str, seed: int | None) -> Tensor:
        return draw_key(self.feature_shapes[int(name) - 1], self.settings.shuffle_block_px, seed, f"tap {name}")

    def draw_new_key(self, seed: int | None) -> None:
        """Replace the key; what was trained with the old one has to learn again."""
        for name, shuffle in self.shuffles.items():
            shuffle.set_key(self._draw_key(name, seed))

    def set_progress(self, pruning: float, quantisation: float) -> None:
        """How far compression has come, from 0 (none yet) to 1 (all that the settings ask for)."""
        for pruner in self.pruners.values():
            pruner.set_progress(pruning)
        for quantiser in self.quantisers.values():
            quantiser.set_share(quantisation)

    def start_interfaces(self, start: InterfaceStart) -> None:
        """Set the interfaces to where training starts.

        Args:
            start: "zero": no features, the server starts as if it got none; "identity": such that the taps themselves
                leave, channel by channel in the server's order, for a backbone with the recogniser's own weights;
                "random": as published, and how that of a bottleneck starts in any case: its decoder starts at zero.
        """
        for tap, interface in enumerate(self.interfaces, start=1):
            assert isinstance(interface, nn.Conv2d) and interface.bias is not None
            if start == "random" or str(tap) in self.bottleneck_norms:
                interface.reset_parameters()
                continue
            nn.init.zeros_(interface.bias)
            nn.init.zeros_(interface.weight)
            if start == "identity":
                interface.weight.data[:, :, 0, 0] = self._identity(tap, interface.in_channels)
        if self.settings.embedding_size:
            nn.init.zeros_(self.embedding_interface.bias)
            nn.init.zeros_(self.embedding_interface.weight)

    def _identity(self, tap: int, channels: int) -> Tensor:
        """(C_i, channels): an interface after which shuffled features are the tap's maps, where one block is shuffled.

        Several blocks want several; their mean is the nearest to all of them.
        """
        identity = torch.eye(self.feature_shapes[tap - 1][0], channels)
        if str(tap) not in self.shuffles:
            return identity
        inverses = self.shuffles[str(tap)].key.argsort(dim=1)  # (blocks, C_i)
        return identity[inverses].mean(dim=0)

    def prepare(self, clear: Tensor, obfuscated: Tensor) -> Tensor:
        """(B, 3, 112, 112) uint8 RGB twice -> the client's input (B, input_channels, 112, 112)."""
        order = self.settings.channel_order
        if self.settings.input == "clear":
            return network_input(clear, order)
        if self.settings.input == "difference":
            first = network_input(clear, order)
        else:
            first = residual(clear, obfuscated, order)
        if self.settings.input == "residual":
            return first
        return torch.cat([first, network_input(obfuscated, order)], dim=1)

    def forward(self, prepared: Tensor) -> list[Tensor]:
        return [self._quantised(name, feature) for name, feature in self.unquantised(prepared).items()]

    def _quantised(self, name: str, feature: Tensor) -> Tensor:
        if name not in self.quantisers:
            return feature
        feature = self.quantisers[name](feature)
        if name in self.pruners:  # codes of 1 bit have no zero: a pruned channel would come back as one of ones
            feature = feature * self.pruners[name].keep.view(1, -1, 1, 1)
        return feature

    def unquantised(self, prepared: Tensor) -> dict[str, Tensor]:
        """The features before they are quantised, by tap ("1".."5"); those of taps that are never sent are zero."""
        sent = self.sent_taps()
        maps, embedding = self._intermediates(prepared, max(sent, default=0))
        features = {}
        for tap, shape in enumerate(self.feature_shapes[:NUM_TAPS], start=1):
            is_sent = tap in sent
            features[str(tap)] = (
                self._feature(tap - 1, maps[tap - 1]) if is_sent else prepared.new_zeros(prepared.shape[0], *shape)
            )
        if embedding is not None:
            features[EMBEDDING_TAP] = self.embedding_interface(embedding)[:, :, None, None]
        return features

    def embedding(self, prepared: Tensor) -> Tensor:
        """(B, D) of unit length: the backbone's embedding, of a client that sends it and sees the clear image alone."""
        assert self.settings.embedding_size and self.settings.input == "clear"
        embedding = self._intermediates(prepared, 0)[1]
        assert embedding is not None
        return embedding

    def sent_taps(self) -> list[int]:
        """The taps, counted from 1, of which any channel is sent; the backbone runs up to the last of them."""
        own = TAP_NAMES[: self.settings.last_tap]
        return [int(name) for name in own if name not in self.pruners or not self.pruners[name].is_closed]

    def kept_channels(self, name: str) -> Tensor:
        """(K,) int64: the channels of a tap ("1".."5") that are sent, rising."""
        channels = torch.arange(self.feature_shapes[int(name) - 1][0])
        if name in self.pruners:
            return channels[self.pruners[name].keep.cpu()]
        return channels if name == EMBEDDING_TAP or int(name) <= self.settings.last_tap else channels[:0]

    def _intermediates(self, prepared: Tensor, count: int) -> tuple[list[Tensor], Tensor | None]:
        """What the features are made of: the first `count` maps, and the embedding (B, D), None if none is sent."""
        if self.settings.input != "difference":
            return self._backbone_intermediates(prepared, count)
        maps, embedding = self._backbone_intermediates(torch.cat(prepared.chunk(2, dim=1)), count)
        return [_difference(of_both) for of_both in maps], None if embedding is None else _difference(embedding)

    def _backbone_intermediates(self, x: Tensor, count: int) -> tuple[list[Tensor], Tensor | None]:
        """The first `count` maps of the backbone, and its embedding, of unit length, or None."""
        if not self.settings.embedding_size:
            return self.backbone.taps(x, count), None
        maps = self.backbone.taps(x)
        return maps, F.normalize(self.backbone.run_segment(NUM_TAPS, maps[-1]).float())

    def _feature(self, index: int, tap: Tensor) -> Tensor:
        feature = resize(tap, self.feature_shapes[index][1:])
        feature = self.interfaces[index](feature)
        name = str(index + 1)
        if name in self.bottleneck_norms:
            feature = self.bottleneck_norms[name](feature)
        if name in self.shuffles:
            feature = self.shuffles[name](feature)
        return self.pruners[name](feature) if name in self.pruners else feature


def _difference(of_both: Tensor) -> Tensor:
    """Of clear and obfuscated images, which stand one after the other in a batch: the first half less the second."""
    clear, obfuscated = of_both.chunk(2)
    return clear - obfuscated


def cut_backbone(backbone: Backbone, last_tap: int) -> None:
    """Leave out the layers after a tap (1..4; 0: all layers), in place: what is never computed needs no weights."""
    unused = {module for segment in backbone.segments()[last_tap:] for module in segment}
    for name, module in list(backbone.named_modules()):
        if module in unused:
            backbone.set_submodule(name, nn.Identity())


def widen_input(backbone: Backbone) -> Backbone:
    """`backbone` with an input of 6 channels: its first convolution adds up what it makes of either half.

    On residual and obfuscated image it starts as the original network on their sum, the clear image.
    """
    name, narrow = next((name, module) for name, module in backbone.named_modules() if isinstance(module, nn.Conv2d))
    wide = copy.deepcopy(narrow)
    wide.in_channels *= 2
    wide.weight = nn.Parameter(narrow.weight.detach().repeat(1, 2, 1, 1))
    backbone.set_submodule(name, wide)
    backbone.input_channels = wide.in_channels
    return backbone


def _feature_shape(tap: Shape, server: Shape, layout: str, bottleneck: int) -> Shape:
    return server if layout == "published" else (bottleneck or server[0], *tap[1:])
