"""How many bytes a client really sends."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from torchkit.client.encoder import Encoder
from torchkit.data.validation_set import ValidationSet
from torchkit.payload import encode, sizes
from validation.evaluate import evaluation_picture

MAX_PICTURES = 256
BATCH = 32


@dataclass(frozen=True)
class PayloadSize:
    """Means over encoded messages, bytes."""

    message: float
    picture: float
    features: float
    """All taps; what is left of the message is header and checksum."""


def measure_payload(encoder: Encoder, data: ValidationSet, kind: str, seed: int) -> PayloadSize:
    """Encode the messages of up to 256 pictures, evenly spread over a set, under one obfuscation."""
    chosen = np.unique(np.linspace(0, len(data.images) - 1, MAX_PICTURES).round().astype(int))
    found = []
    for start in range(0, len(chosen), BATCH):
        clear = [np.ascontiguousarray(data.images[i].transpose(1, 2, 0)) for i in chosen[start : start + BATCH]]
        obfuscated = [evaluation_picture(picture, kind, seed) for picture in clear]
        found += [sizes(encode(payload)) for payload in encoder(clear, obfuscated)]
    return PayloadSize(
        message=float(np.mean([size.message for size in found])),
        picture=float(np.mean([size.picture for size in found])),
        features=float(np.mean([sum(size.features) for size in found])),
    )
