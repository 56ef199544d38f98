"""How many bytes the client sends for an image, counted on real messages."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from torchkit.client.encoder import Encoder
from torchkit.data.validation_set import ValidationSet
from torchkit.obfuscation import evaluation_image
from torchkit.payload import encode, sizes

IMAGES = 128
"""Images of a set that are encoded; sizes differ little between images."""
BATCH = 32


@dataclass(frozen=True)
class PayloadSize:
    """Means over encoded messages, bytes."""

    message: float
    image: float
    """Of the obfuscated image."""
    features: float
    """Of all taps; what is left of the message is header and checksum."""


def measure_payload(encoder: Encoder, data: ValidationSet, kind: str, seed: int, flip: bool = False) -> PayloadSize:
    """Encode the messages of up to `IMAGES` images, evenly spread over a set, under one obfuscation.

    With `flip` the client sends a message for the mirror image, too: both are counted.
    """
    chosen = np.linspace(0, len(data.images), min(IMAGES, len(data.images)), endpoint=False).astype(int)
    clear = [np.ascontiguousarray(data.images[number].transpose(1, 2, 0)) for number in chosen]
    obfuscated = [evaluation_image(image, kind, seed) for image in clear]
    totals = _totals(encoder, clear, obfuscated)
    if flip:
        totals += _totals(encoder, [mirrored(image) for image in clear], [mirrored(sent) for sent in obfuscated])
    message, image, features = totals / len(clear)
    return PayloadSize(float(message), float(image), float(features))


def mirrored(image: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(image[:, ::-1])


def _totals(encoder: Encoder, clear: list[np.ndarray], obfuscated: list[np.ndarray]) -> np.ndarray:
    """(3,) bytes of all messages, their images and their features."""
    totals = np.zeros(3)
    for start in range(0, len(clear), BATCH):
        for payload in encoder(clear[start : start + BATCH], obfuscated[start : start + BATCH]):
            found = sizes(encode(payload))
            totals += found.message, found.image, sum(found.features)
    return totals
