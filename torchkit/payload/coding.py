"""What client and server share for messages of version 2, so that these need not repeat it: taps and frequencies."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from torchkit.payload.arrays import read_only
from torchkit.payload.limits import PayloadError
from torchkit.payload.message import (
    FLOAT_BITS,
    Shape,
    TapFeatures,
    check_fingerprint,
    check_form,
    check_kept,
    check_tap_count,
    check_value_count,
)
from torchkit.payload.packing import codes_of, pack, packed_bytes, symbols_of, unpack
from torchkit.payload.range_coder import decode_symbols, encode_symbols

FREQUENCY_TOTAL = 2**16
"""Sum of the frequencies of a channel."""


@dataclass(frozen=True, eq=False)
class TapCoding:
    """How the features of one tap are coded."""

    shape: Shape
    """Of the full map, (C, h, w)."""
    kept: np.ndarray
    """(K,) int64, read-only: the channels that are sent, rising."""
    bits: int
    """Of a code: 1, 2, 4 or 8; or 32 for float32 values, which are sent as they are."""
    step: float
    """The value of code 1; 1.0 with 32 bits."""
    frequencies: np.ndarray
    """(K, G, 2**bits) int64, read-only: of the codes from the lowest to the highest, for each kept channel (G = 1) or
    each of its values (G = h * w); each is at least 1, and a row adds up to FREQUENCY_TOTAL. (K, 1, 0) with 32 bits."""

    def __post_init__(self) -> None:
        """Raises PayloadError: a field is not as described, or beyond the limits of messages."""
        check_form(self.shape, self.bits, self.step)
        kept = read_only(self.kept, "kept channels", (None,), np.int64)
        check_kept(kept, self.shape[0])
        symbols = 0 if self.bits == FLOAT_BITS else 2**self.bits
        frequencies = read_only(self.frequencies, "frequencies", (len(kept), None, symbols), np.int64)
        if frequencies.shape[1] not in (1, self.cells):
            raise PayloadError(f"frequencies of {frequencies.shape[1]} values a channel: allowed are 1, {self.cells}")
        if symbols and ((frequencies < 1).any() or (frequencies.sum(2) != FREQUENCY_TOTAL).any()):
            raise PayloadError(f"frequencies: each must be at least 1, and a row add up to {FREQUENCY_TOTAL}")
        object.__setattr__(self, "kept", kept)
        object.__setattr__(self, "frequencies", frequencies)

    @property
    def cells(self) -> int:
        """Values of a channel."""
        return self.shape[1] * self.shape[2]

    def fits(self, tap: TapFeatures) -> bool:
        """Whether shape, bits, step and kept channels of `tap` are those of this coding."""
        same = (tap.shape, tap.bits, tap.step) == (self.shape, self.bits, self.step)
        return same and np.array_equal(tap.kept, self.kept)

    def write(self, codes: np.ndarray) -> bytes:
        """Write codes (K, h, w) as bytes; without channels, no bytes."""
        if self.bits == FLOAT_BITS:
            return pack(codes, self.bits)
        symbols = symbols_of(codes.reshape(len(codes), self.cells), self.bits)
        return encode_symbols(symbols.astype(np.int32), self.frequencies)

    def read(self, data: bytes) -> TapFeatures:
        """Undo `write`, for data of unknown origin.

        Raises:
            PayloadError: anything but the output of `write`.
        """
        count = len(self.kept) * self.cells
        if self.bits == FLOAT_BITS:
            expected = packed_bytes(count, self.bits)
            if len(data) != expected:
                raise PayloadError(f"{len(data)} bytes of features: expected {expected}")
            codes = unpack(data, count, self.bits)
        else:
            codes = codes_of(decode_symbols(data, self.cells, self.frequencies).astype(np.uint8), self.bits)
        codes = codes.reshape(len(self.kept), *self.shape[1:])
        return TapFeatures(self.shape, self.kept, self.bits, self.step, codes)


@dataclass(frozen=True, eq=False)
class Coding:
    """What client and server share, so that messages need not contain it."""

    fingerprint: bytes
    """16 bytes that identify the client."""
    taps: tuple[TapCoding, ...]
    """In the order of the taps."""

    def __post_init__(self) -> None:
        """Raises PayloadError: a field is not as described, or too many taps or values."""
        check_fingerprint(self.fingerprint)
        check_tap_count(len(self.taps))
        check_value_count([tap.shape for tap in self.taps])
