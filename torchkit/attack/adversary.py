"""Decoders to train against: what features give an attacker beyond what everybody has anyway.

The server must get the embedding e of the clear image, and everybody may see the obfuscated image O. What a client
sends beside O is Z. The conditional excess is how much better a decoder reconstructs the clear image from (O, e, Z)
than from (O, e): if Z is a function of O and e, there is none.
"""

from __future__ import annotations

from typing import Annotated, NamedTuple

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from torchkit.attack.decoder import IMAGE, Decoder, InputShape, Standardise
from torchkit.client import Client
from torchkit.system import ProFaceC
from torchkit.util.pixels import INPUT_SIZE_PX
from torchkit.util.settings import UPPER_CASE_KEYS, NonNegative, Positive

EMBEDDING, FEATURES = "e", "Z"
SSIM_WEIGHT = 0.5
"""Of the structural dissimilarity in the decoders' loss, beside the mean absolute error."""
VARIANCE_FLOOR = 1e-8
"""Added to the variance of a feature channel: one that varies less counts as constant."""


@dataclass(frozen=True, config=UPPER_CASE_KEYS)
class AdversarySettings:
    """Two decoders that are trained alongside the client, and what the client pays for the conditional excess."""

    weight: NonNegative = 0.0
    """Factor of the excess in the client's loss; 0: there are no decoders."""
    width: Positive = 16
    """Channels of the decoders at 28x28 pixels."""
    steps: Positive = 1
    """Updates of each decoder for one of the client."""
    lr: Annotated[float, Field(gt=0)] = 2e-3
    """Learning rate of the decoders."""


class ObservedBatch(NamedTuple):
    """What the decoders see of a batch of faces, and what they should reconstruct."""

    clear: Tensor
    """(B, 3, 112, 112) in [0, 1]."""
    inputs: dict[str, Tensor]
    """Name -> (B, ...): obfuscated images in [0, 1], embeddings of the clear images, features as they leave."""

    def detach(self) -> ObservedBatch:
        """The same without a way back to the client."""
        return ObservedBatch(self.clear, {name: tensor.detach() for name, tensor in self.inputs.items()})


def observed_batch(clear: Tensor, obfuscated: Tensor, embedding: Tensor, features: list[Tensor]) -> ObservedBatch:
    """Args:
    clear, obfuscated: (B, 3, 112, 112) uint8 RGB.
    embedding: (B, D), the recogniser's of the clear images, unit length.
    features: of each tap, as they leave.
    """
    taps = {f"{FEATURES}{tap}": maps.float() for tap, maps in enumerate(features, start=1)}
    return ObservedBatch(clear.float() / 255, {IMAGE: obfuscated.float() / 255, EMBEDDING: embedding.float(), **taps})


def make_decoders(system: ProFaceC, width: int) -> tuple[Decoder, Decoder]:
    """Decoders of (O, e) and of (O, e, Z) that start as the same function; where Z is constant they stay the same."""
    image, embedding = (3, INPUT_SIZE_PX, INPUT_SIZE_PX), (system.recogniser.embedding_size,)
    common = {IMAGE: InputShape(image), EMBEDDING: InputShape(embedding)}
    features = feature_inputs(system.client)
    grey = torch.full(image, 0.5)
    baseline, informed = Decoder(common, width, grey), Decoder({**common, **features}, width, grey)
    informed.load_state_dict(baseline.state_dict(), strict=False)
    for decoder in (baseline, informed):
        _scale_embedding(decoder)
    for name, spec in features.items():
        _follow_features(informed, name, spec)
    return baseline, informed


def feature_inputs(client: Client) -> dict[str, InputShape]:
    """Name -> shape of a client's features as they leave, for those taps of which anything does."""
    inputs = {}
    for name, shape in zip(client.tap_names, client.feature_shapes, strict=True):
        if len(client.kept_channels(name)):
            blocks = shape[1] // client.settings.shuffle_block_px if name in client.shuffles else 1
            inputs[f"{FEATURES}{name}"] = InputShape(tuple(shape), blocks)
    return inputs


def _scale_embedding(decoder: Decoder) -> None:
    """Bring the values of unit vectors to deviation 1."""
    standardise = decoder.standardise[EMBEDDING]
    assert isinstance(standardise, Standardise)
    standardise.scale.fill_(len(standardise.scale) ** 0.5)


def _follow_features(decoder: Decoder, name: str, spec: InputShape) -> None:
    """Standardise features, which change while the client learns, by each batch: no client hides by scaling them.

    Their mean is 0 then, so that a bias of their own adds nothing.
    """
    layer = nn.BatchNorm1d if len(spec.shape) == 1 else nn.BatchNorm2d
    decoder.standardise[name] = layer(spec.shape[0], eps=VARIANCE_FLOOR, affine=False)
    for entrance in (decoder.adapters, decoder.shortcuts):
        if name in entrance:
            for parameter_name, parameter in entrance[name].named_parameters():
                parameter.requires_grad_(not parameter_name.endswith("bias"))
