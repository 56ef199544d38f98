"""The configuration of TASK: server, a recogniser on clear images."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import model_validator

from torchkit.backbone import find_network
from torchkit.config.schema import EmbeddingConfig
from torchkit.util.pixels import ChannelOrder
from torchkit.util.settings import Group


class TrainedRecogniserConfig(Group):
    """The recogniser that is trained, beside its BACKBONE_NAME."""

    CHANNEL_ORDER: Literal["auto", ChannelOrder] = "auto"
    """Colour order of its input; auto: as for its published weights."""


class RecogniserConfig(EmbeddingConfig):
    """The training of a recogniser on clear images; it can be a client's server afterwards."""

    TASK: Literal["server"] = "server"

    SERVER: TrainedRecogniserConfig = TrainedRecogniserConfig()

    @model_validator(mode="after")
    def _trainable(self) -> Self:
        if not find_network(self.BACKBONE_NAME).is_trainable:
            raise ValueError(
                f"BACKBONE_NAME = {self.BACKBONE_NAME} with TASK: server: its batch norms are folded away, so that it "
                "can be used but not trained; train another network, e.g. MobileFaceNet or IR_18"
            )
        return self
