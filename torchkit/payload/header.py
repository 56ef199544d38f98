"""The header of a message of version 1: how to read the image and the features that follow it."""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np

from torchkit.payload.limits import PayloadError
from torchkit.payload.message import FINGERPRINT_BYTES, Shape, check_form, check_tap_count, check_value_count
from torchkit.payload.packing import packed_bytes
from torchkit.payload.reader import Reader

_FIXED = struct.Struct(f"<{FINGERPRINT_BYTES}sIB")
"""Fingerprint, bytes of the image, number of taps."""
_TAP = struct.Struct("<HHHBBfI")
"""Channels, height, width, bits, flags, step, bytes of the data."""
_PRUNED = 1
"""Flag: a bitmap of the kept channels follows; without it, all are kept."""
_ZSTD = 2
"""Flag: the data are a zstd frame; without it, they are the packed codes."""


@dataclass(frozen=True, eq=False)
class TapEntry:
    """The header's entry for a tap."""

    shape: Shape
    bits: int
    step: float
    kept: np.ndarray
    """(K,) int64, rising."""
    compressed: bool
    data_bytes: int

    @property
    def values(self) -> int:
        """Number of codes that are sent."""
        return len(self.kept) * self.shape[1] * self.shape[2]

    @property
    def packed_bytes(self) -> int:
        """Bytes of the codes before compression."""
        return packed_bytes(self.values, self.bits)

    def write(self) -> bytes:
        pruned = len(self.kept) < self.shape[0]
        flags = _PRUNED * pruned | _ZSTD * self.compressed
        fields = _TAP.pack(*self.shape, self.bits, flags, self.step, self.data_bytes)
        return fields + _write_bitmap(self.kept, self.shape[0]) if pruned else fields

    @classmethod
    def read(cls, reader: Reader) -> TapEntry:
        """Raises PayloadError: cut short, beyond the limits, or not as `write` would put it."""
        *shape, bits, flags, step, data_bytes = reader.unpack(_TAP)
        channels, height, width = shape
        check_form((channels, height, width), bits, step)
        if flags & ~(_PRUNED | _ZSTD):
            raise PayloadError(f"flags {flags} of a tap: version 1 knows {_PRUNED} (pruned) and {_ZSTD} (zstd)")
        kept = _read_bitmap(reader, channels) if flags & _PRUNED else np.arange(channels, dtype=np.int64)
        entry = cls((channels, height, width), bits, step, kept, bool(flags & _ZSTD), data_bytes)
        entry._check_data_bytes()
        return entry

    def _check_data_bytes(self) -> None:
        """Check that the data have the length of the packed codes, or are a frame that is shorter."""
        if self.compressed and self.data_bytes >= self.packed_bytes:
            raise PayloadError(
                f"{self.data_bytes} bytes of compressed features: fewer than {self.packed_bytes} allowed"
            )
        if not self.compressed and self.data_bytes != self.packed_bytes:
            raise PayloadError(f"{self.data_bytes} bytes of features: expected {self.packed_bytes}")


@dataclass(frozen=True, eq=False)
class Header:
    """The header of a message."""

    fingerprint: bytes
    image_bytes: int
    taps: tuple[TapEntry, ...]

    @property
    def data_bytes(self) -> int:
        """Bytes of everything that follows the header."""
        return self.image_bytes + sum(tap.data_bytes for tap in self.taps)

    def write(self) -> bytes:
        fixed = _FIXED.pack(self.fingerprint, self.image_bytes, len(self.taps))
        return fixed + b"".join(tap.write() for tap in self.taps)

    @classmethod
    def read(cls, reader: Reader) -> Header:
        """Read the header; `reader` must then hold exactly the data that it announces.

        Raises:
            PayloadError: cut short, beyond the limits, other data than announced, or not as `write` would put it.
        """
        fingerprint, image_bytes, tap_count = reader.unpack(_FIXED)
        check_tap_count(tap_count)
        header = cls(fingerprint, image_bytes, tuple(TapEntry.read(reader) for _ in range(tap_count)))
        check_value_count([tap.shape for tap in header.taps])
        if header.data_bytes != reader.remaining:
            raise PayloadError(f"{reader.remaining} bytes follow the header: it announces {header.data_bytes}")
        return header


def _write_bitmap(kept: np.ndarray, channels: int) -> bytes:
    """Write one bit for each channel; the first channel is the lowest bit of the first byte."""
    bitmap = np.zeros(channels, np.uint8)
    bitmap[kept] = 1
    return np.packbits(bitmap, bitorder="little").tobytes()


def _read_bitmap(reader: Reader, channels: int) -> np.ndarray:
    """(K,) int64."""
    packed = np.frombuffer(reader.take((channels + 7) // 8), np.uint8)
    bitmap = np.unpackbits(packed, bitorder="little")
    if bitmap[channels:].any():
        raise PayloadError(f"bits behind the last of {channels} channels are set")
    if bitmap[:channels].all():
        raise PayloadError("a tap that keeps all channels carries a bitmap: leave it and its flag out")
    return np.flatnonzero(bitmap).astype(np.int64)
