"""The configuration of TASK: client, a client against a frozen recogniser."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator

from torchkit.attack.adversary import AdversarySettings
from torchkit.backbone import NUM_TAPS, canonical_name
from torchkit.client.model import CodingKind, EmbeddingStart, Input, InterfaceStart, Layout, check_one_bit
from torchkit.client.prune import check_shares
from torchkit.client.quantise import check_bits
from torchkit.config.schema import EmbeddingConfig, ValidationConfig
from torchkit.data.camera import Camera
from torchkit.loss import DISTILLATIONS
from torchkit.obfuscation import KINDS, RandomObfuscation
from torchkit.server import CompensationSettings
from torchkit.util.pixels import ChannelOrder
from torchkit.util.settings import ConfigPath, Group, NonNegative, Positive, one_of


def _for_all_taps(value: Any) -> Any:
    return value if isinstance(value, list | tuple | bool) else (value,) * NUM_TAPS


def _check_one_width(bits: int) -> int:
    check_bits((bits,))
    return bits


PerTap = Annotated[tuple[float, float, float, float], BeforeValidator(_for_all_taps)]
"""A number for each tap; a single one holds for all taps."""


Channels = Annotated[int, Field(ge=0)]


class ServerConfig(Group):
    """The frozen recogniser."""

    NAME: str = "ir_101"
    """A key of torchkit.backbone.NETWORKS."""
    CHECKPOINT: ConfigPath = Path("model/adaface_ir101_webface12m.ckpt")
    """Its weights."""
    CHANNEL_ORDER: Literal["auto", ChannelOrder] = "auto"
    """Colour order of its input; auto: the order that its weights were trained with."""

    _name = field_validator("NAME")(canonical_name)


class ClientNetworkConfig(Group):
    """The client's network and its start."""

    LAYOUT: Layout = "published"
    """native: features leave at the client's resolution; published: as in published weights."""
    CHANNEL_ORDER: ChannelOrder = "rgb"
    """Colour order of the residual."""
    INPUT: Input = "residual"
    """residual: clear minus obfuscated; both: the residual and the obfuscated image; difference: of the maps of both
    images; clear: the clear image alone."""
    BOTTLENECK: Annotated[tuple[Channels, Channels, Channels, Channels], BeforeValidator(_for_all_taps)] = (0, 0, 0, 0)
    """Channels that a tap is reduced to before it leaves, from which the server decodes its own; 0: as many as its."""
    EMBEDDING: bool = False
    """Send the network's embedding, mapped to the server's, as a fifth tap."""
    EMBEDDING_START: EmbeddingStart = "zero"
    """Of that map. zero: nothing is added to the server's; ridge: the best linear map for training images, in place of
    the server's (INPUT: clear)."""
    INTERFACE: InterfaceStart = "random"
    """Start of the interfaces, see Client.start_interfaces."""
    INIT: ConfigPath | None = None
    """Weights of the bare backbone to start from, e.g. a recogniser's."""
    FREEZE_NORMS: bool = False
    """Keep the statistics of the batch norms that INIT brings."""
    IMAGE_QUALITY: Annotated[int, Field(ge=0, le=100)] | None = None
    """Of the obfuscated image: null lossless, 0..100 lossy WebP."""


class ShuffleConfig(Group):
    """Block channel shuffle: the client's key."""

    TAPS: tuple[Annotated[int, Field(ge=1, le=NUM_TAPS)], ...] = (1,)
    """Taps whose features are shuffled."""
    BLOCK_PX: Positive = 28
    """Side of a block in pixels of the feature map that leaves."""
    SEED: int | None = None
    """Seed of the key; null: drawn from the operating system."""


class QuantizeConfig(Group):
    """Quantisation of the features that leave."""

    BITS: Annotated[PerTap, AfterValidator(check_bits)] = (32, 32, 32, 32)
    """1, 2, 4, 8; 32: float32."""
    EMBEDDING_BITS: Annotated[int, AfterValidator(_check_one_width)] = 32
    """Of a value of the embedding, if CLIENT.EMBEDDING sends one."""
    START_EPOCH: NonNegative = 0.0
    """Epochs (also fractions) before which features are not quantised."""
    RAMP_EPOCHS: NonNegative = 0.0
    """Epochs over which training passes from plain to quantised features."""
    CODING: CodingKind = "packed"
    """How messages hold the codes: packed, or by a range coder with frequencies that the client's file holds."""


class PruneConfig(Group):
    """Pruning: the features that do not leave."""

    CHANNELS: Annotated[PerTap, AfterValidator(check_shares)] = (0, 0, 0, 0)
    """Share of the channels."""
    VALUES: Annotated[PerTap, AfterValidator(check_shares)] = (0, 0, 0, 0)
    """Share of the other channels' values, smallest first."""
    START_EPOCH: NonNegative = 0.0
    """Epochs (also fractions) before which nothing is pruned."""
    RAMP_EPOCHS: NonNegative = 0.0
    """Epochs over which the pruned shares grow to their final values."""


class DistillationConfig(Group):
    """Pulls the compensated embedding to the clear image's."""

    FORM: Annotated[str, one_of(DISTILLATIONS)] = "mse"
    """cosine: 1 - cos; mse: mean squared difference of the unit embeddings, as published."""
    WEIGHT: NonNegative = 1.0
    MAP_WEIGHT: NonNegative = 0.0
    """Factor of the relative error of the server's maps at the taps."""
    MAP_WEIGHTING: Literal["uniform", "sensitivity"] = "uniform"
    """Weights of the map errors. uniform: equal; sensitivity: how much the embedding depends on each value."""
    MAP_EPOCHS: NonNegative = 0.0
    """Epochs at the start, fractions too, that minimise the error of the map at the last tap that is sent and nothing
    else; the server is run no further, which is several times as fast."""
    DDL_WEIGHT: NonNegative = 0.0
    """Factor of the distribution distillation loss; its positive part needs several images of an identity a batch."""

    @model_validator(mode="after")
    def _maps(self) -> Self:
        for key, value in (("MAP_EPOCHS", self.MAP_EPOCHS), ("MAP_WEIGHTING", self.MAP_WEIGHTING)):
            if value not in (0, "uniform") and self.MAP_WEIGHT == 0:
                raise ValueError(f"{key} = {value} without MAP_WEIGHT: no error of a map counts; set MAP_WEIGHT to 1")
        return self


class ClientValidationConfig(ValidationConfig):
    OBFUSCATIONS: Annotated[tuple[Annotated[str, one_of(KINDS)], ...], Field(min_length=1)] = ("hybrid",)


class ClientConfig(EmbeddingConfig):
    """The training of a client against a frozen recogniser."""

    TASK: Literal["client"] = "client"

    SERVER: ServerConfig = ServerConfig()
    CLIENT: ClientNetworkConfig = ClientNetworkConfig()
    COMPENSATION: CompensationSettings = CompensationSettings()
    CAMERA: Camera = Camera()
    OBFUSCATION: RandomObfuscation = RandomObfuscation()
    SHUFFLE: ShuffleConfig = ShuffleConfig()
    QUANTIZE: QuantizeConfig = QuantizeConfig()
    PRUNE: PruneConfig = PruneConfig()
    VALIDATION: ClientValidationConfig = ClientValidationConfig()
    DISTILLATION: DistillationConfig = DistillationConfig()
    ADVERSARY: AdversarySettings = AdversarySettings()

    @model_validator(mode="after")
    def _zeros(self) -> Self:
        check_one_bit(self.QUANTIZE.BITS, self.PRUNE.VALUES, "QUANTIZE.BITS", "PRUNE.VALUES")
        return self

    @model_validator(mode="after")
    def _sent_maps(self) -> Self:
        if self.DISTILLATION.MAP_EPOCHS and min(self.PRUNE.CHANNELS) == 1:
            raise ValueError(
                f"DISTILLATION.MAP_EPOCHS = {self.DISTILLATION.MAP_EPOCHS:g} with PRUNE.CHANNELS = 1 at every tap: no "
                "map is sent that could be learned; set MAP_EPOCHS to 0"
            )
        return self

    @model_validator(mode="after")
    def _embedding_start(self) -> Self:
        client = self.CLIENT
        if client.EMBEDDING_START == "ridge" and not (client.EMBEDDING and client.INPUT == "clear"):
            raise ValueError(
                f"CLIENT.EMBEDDING_START = ridge with EMBEDDING = {client.EMBEDDING} and INPUT = {client.INPUT}: it "
                "maps the embedding of the clear image; take EMBEDDING: true and INPUT: clear, or EMBEDDING_START: zero"
            )
        return self

    @model_validator(mode="after")
    def _norms(self) -> Self:
        if self.CLIENT.FREEZE_NORMS and self.CLIENT.INIT is None and self.BACKBONE_RESUME is None:
            raise ValueError(
                "CLIENT.FREEZE_NORMS = true without CLIENT.INIT: batch norms that start from nothing have no "
                "statistics to keep; give weights to start from"
            )
        return self
