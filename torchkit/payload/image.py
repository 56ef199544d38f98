"""The image of a message: a WebP stream and its decoded pixels.

The two simple forms of WebP are allowed, one chunk `VP8 ` (lossy) or `VP8L` (lossless). The extended form is refused:
it exists for transparency, animation and metadata, and EXIF data (place, time, camera) must not be sent.

WebP: RFC 9649. The frame header of `VP8 `: RFC 6386, section 9.1.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from PIL import Image as PillowImage

from torchkit.payload.arrays import read_only
from torchkit.payload.limits import MAX_MESSAGE_BYTES, PayloadError

SIDE_PX = 112
"""Side of an aligned face. `torchkit.util.pixels` defines it too, but needs torch."""
PIXELS_SHAPE = (SIDE_PX, SIDE_PX, 3)

# In lossless mode, quality is effort: on obfuscated faces 50 would take 4 ms instead of 3, for 1 to 6 % fewer bytes.
_LOSSLESS = {"lossless": True, "method": 2, "quality": 20}

_RIFF = struct.Struct("<4sI4s4sI")
"""`RIFF`, bytes after this field, `WEBP`, the chunk's name, the chunk's bytes without padding."""
_CHUNKS = {
    # Start code, width, height; the upper two bits of each side would ask for upscaling.
    b"VP8 ": (23, b"\x9d\x01\x2a" + struct.pack("<HH", SIDE_PX, SIDE_PX)),
    # Signature, 14 bits width - 1, 14 bits height - 1, 1 bit transparency, 3 bits version.
    b"VP8L": (20, b"\x2f" + struct.pack("<I", (SIDE_PX - 1) | (SIDE_PX - 1) << 14)),
}
"""Chunk name -> the offset at which it states its size, and the bytes that must stand there."""


@dataclass(frozen=True, eq=False)
class EncodedImage:
    """An image as it is sent. Create it by `compress` or `read`, which keep data and pixels consistent."""

    data: bytes
    """A WebP stream."""
    pixels: np.ndarray
    """(112, 112, 3) uint8 RGB, read-only: `data` decoded."""

    def __post_init__(self) -> None:
        """Raises PayloadError: no WebP stream of an allowed form, or pixels of another shape or type."""
        _check_stream(self.data)
        object.__setattr__(self, "pixels", read_only(self.pixels, "pixels", PIXELS_SHAPE, np.uint8))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, EncodedImage):
            return NotImplemented
        return self.data == other.data and np.array_equal(self.pixels, other.pixels)

    @classmethod
    def compress(cls, pixels: np.ndarray, quality: int | None = None) -> EncodedImage:
        """Compress an image; features must be computed against the result's `pixels`.

        Args:
            pixels: (112, 112, 3) uint8 RGB.
            quality: None for lossless; 0 (small) to 100 (good) for lossy.

        Raises:
            PayloadError: another shape or type, or another quality.
        """
        pixels = read_only(pixels, "pixels", PIXELS_SHAPE, np.uint8)
        if quality is None:
            return cls(_webp(pixels, _LOSSLESS), pixels)
        if quality not in range(101):
            raise PayloadError(f"image quality {quality}: allowed are 0 to 100, or None for lossless")
        return cls.read(_webp(pixels, {"method": 4, "quality": quality}))

    @classmethod
    def read(cls, data: bytes) -> EncodedImage:
        """Decode a WebP stream of unknown origin.

        Raises:
            PayloadError: not WebP of an allowed form, not 112x112, or damaged.
        """
        _check_stream(data)  # before Pillow opens the stream and allocates the size that it states
        try:
            with PillowImage.open(io.BytesIO(data), formats=["WEBP"]) as opened:
                pixels = np.asarray(opened)
        except Exception as error:  # a damaged stream can cause errors of any class in Pillow
            raise PayloadError(f"the image cannot be decoded: {error}") from error
        return cls(data, pixels)


def strip_container(data: bytes) -> tuple[bool, bytes]:
    """Split off the fixed parts of an `EncodedImage`'s data: returns whether it is lossless, and the rest of the chunk.

    Raises:
        PayloadError: the byte that may follow a chunk is not zero, so that `restore_container` would not restore it.
    """
    *_, chunk, chunk_bytes = _RIFF.unpack_from(data)
    offset, fixed = _CHUNKS[chunk]
    end = _RIFF.size + chunk_bytes
    if any(data[end:]):
        raise PayloadError("the image is padded with something else than zero; compress it anew")
    return chunk == b"VP8L", data[_RIFF.size : offset] + data[offset + len(fixed) : end]


def restore_container(lossless: bool, stripped: bytes) -> bytes:
    """Undo `strip_container`; for bytes of unknown origin the result has yet to be checked."""
    chunk = b"VP8L" if lossless else b"VP8 "
    offset, fixed = _CHUNKS[chunk]
    split = offset - _RIFF.size
    body = stripped[:split] + fixed + stripped[split:]
    padded = body + bytes(len(body) % 2)
    return _RIFF.pack(b"RIFF", _RIFF.size - 8 + len(padded), b"WEBP", chunk, len(body)) + padded


def _webp(pixels: np.ndarray, options: Mapping[str, int]) -> bytes:
    stream = io.BytesIO()
    PillowImage.fromarray(pixels).save(stream, "WEBP", **options)
    return stream.getvalue()


def _check_stream(data: bytes) -> None:
    """Check everything that a stream states before its pixels."""
    if not isinstance(data, bytes) or not _RIFF.size <= len(data) <= MAX_MESSAGE_BYTES:
        raise PayloadError(f"the image must be {_RIFF.size} to {MAX_MESSAGE_BYTES} bytes of WebP")
    riff, riff_bytes, webp, chunk, chunk_bytes = _RIFF.unpack_from(data)
    if (riff, webp) != (b"RIFF", b"WEBP") or chunk not in _CHUNKS:
        raise PayloadError("the image is not WebP in one chunk, VP8 or VP8L: send it without metadata and animation")
    padded_bytes = chunk_bytes + chunk_bytes % 2
    if riff_bytes != len(data) - 8 or padded_bytes != len(data) - _RIFF.size:
        raise PayloadError(f"the image has {len(data)} bytes, and its stream states another length")
    offset, expected = _CHUNKS[chunk]
    if data[offset : offset + len(expected)] != expected:
        raise PayloadError(f"the image is not {SIDE_PX}x{SIDE_PX}, or has transparency or upscaling: allowed is none")
