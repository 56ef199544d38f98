"""The payload: what a client sends, an obfuscated image and quantised, pruned auxiliary features, as bytes.

`encode` writes a `Payload`, `decode` reads one from bytes that nobody vouches for. The format is described byte by
byte in docs/payload.md. Only NumPy, Pillow and zstandard are needed: a server can read messages without a network.
"""

from __future__ import annotations

from torchkit.payload.image import EncodedImage
from torchkit.payload.limits import PayloadError
from torchkit.payload.message import Payload, TapFeatures
from torchkit.payload.wire import Sizes, decode, encode, sizes

__all__ = ["EncodedImage", "Payload", "PayloadError", "Sizes", "TapFeatures", "decode", "encode", "sizes"]
