"""The payload: what a client sends, an obfuscated image and quantised, pruned auxiliary features, as bytes.

`encode` writes a `Payload`, `decode` reads one from bytes of unknown origin. The format is described byte by
byte in docs/payload.md. Only NumPy, Pillow, zstandard and constriction are needed: a server can read messages without
a network.
"""

from __future__ import annotations

from torchkit.payload.coding import FREQUENCY_TOTAL, Coding, TapCoding
from torchkit.payload.image import EncodedImage
from torchkit.payload.limits import PayloadError
from torchkit.payload.message import Payload, TapFeatures
from torchkit.payload.wire import Sizes, decode, encode, sizes

__all__ = [
    "FREQUENCY_TOTAL", "Coding", "EncodedImage", "Payload", "PayloadError", "Sizes", "TapCoding", "TapFeatures",
    "decode", "encode", "sizes",
]  # fmt: skip
