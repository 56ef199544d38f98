"""The checked contents of a message: a value of these types can always be sent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from torchkit.payload.arrays import read_only
from torchkit.payload.image import EncodedImage
from torchkit.payload.limits import MAX_CHANNELS, MAX_SIDE, MAX_STEP, MAX_TAP_VALUES, MAX_TAPS, PayloadError

Shape = tuple[int, int, int]
"""Channels, height and width of a feature map."""
FINGERPRINT_BYTES = 16
FLOAT_BITS = 32
"""Marks features that are sent as float32 values instead of codes."""
CODE_RANGES = {1: (-1, 1), 2: (-2, 1), 4: (-8, 7), 8: (-128, 127)}
"""Bits -> the lowest and the highest code (Esser et al., Learned Step Size Quantization, ICLR 2020, signed data).
With 1 bit there is no zero: the codes are -1 and 1."""


@dataclass(frozen=True, eq=False)
class TapFeatures:
    """The auxiliary features (C, h, w) of one tap: K channels are kept, the others are zero."""

    shape: Shape
    """Of the full map."""
    kept: np.ndarray
    """(K,) int64, read-only: the channels that are kept, rising, each in 0..C-1; K may be 0."""
    bits: int
    """Of a code: 1, 2, 4 or 8; or 32 for float32 values."""
    step: float
    """The value of code 1: a float32, 0 < step <= 2**120; 1.0 with 32 bits."""
    codes: np.ndarray
    """(K, h, w), read-only: int8 within `CODE_RANGES[bits]`, or finite float32."""

    def __post_init__(self) -> None:
        """Raises PayloadError: a field is not as described, or beyond the limits."""
        check_form(self.shape, self.bits, self.step)
        channels, height, width = self.shape
        kept = read_only(self.kept, "kept channels", (None,), np.int64)
        dtype = np.float32 if self.bits == FLOAT_BITS else np.int8
        codes = read_only(self.codes, "codes", (len(kept), height, width), dtype)
        check_kept(kept, channels)
        _check_codes(codes, self.bits)
        object.__setattr__(self, "kept", kept)
        object.__setattr__(self, "codes", codes)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, TapFeatures):
            return NotImplemented
        return (
            (self.shape, self.bits, self.step) == (other.shape, other.bits, other.step)
            and np.array_equal(self.kept, other.kept)
            and np.array_equal(self.codes, other.codes)
        )

    def values(self) -> np.ndarray:
        """The features: (C, h, w) float32, step times code, and zero in pruned channels."""
        full = np.zeros(self.shape, np.float32)
        full[self.kept] = np.float32(self.step) * self.codes
        return full


@dataclass(frozen=True)
class Payload:
    """A message."""

    fingerprint: bytes
    """16 bytes that identify the client."""
    image: EncodedImage
    taps: tuple[TapFeatures, ...]
    """1 to 8 of them, in the order of the taps."""

    def __post_init__(self) -> None:
        """Raises PayloadError: a field is not as described, or too many taps or values."""
        check_fingerprint(self.fingerprint)
        if not isinstance(self.image, EncodedImage):
            raise PayloadError(f"image: expected an EncodedImage, not {type(self.image).__name__}")
        if not isinstance(self.taps, tuple) or not all(isinstance(tap, TapFeatures) for tap in self.taps):
            raise PayloadError("taps: expected a tuple of TapFeatures")
        check_tap_count(len(self.taps))
        check_value_count([tap.shape for tap in self.taps])


def check_form(shape: Shape, bits: int, step: float) -> None:
    """Check shape, bits and step of a tap, which needs none of its data.

    Raises:
        PayloadError: a shape beyond the limits, or other bits or steps than `TapFeatures` allows.
    """
    _check_shape(shape)
    if not isinstance(bits, int) or (bits != FLOAT_BITS and bits not in CODE_RANGES):
        raise PayloadError(f"{bits!r} bits a value: allowed are {', '.join(map(str, CODE_RANGES))} and {FLOAT_BITS}")
    if not isinstance(step, float) or not 0 < step <= MAX_STEP or float(np.float32(step)) != step:
        raise PayloadError(f"step {step!r}: allowed is a float that is a float32, above 0 and up to {MAX_STEP:g}")
    if bits == FLOAT_BITS and step != 1:
        raise PayloadError(f"step {step} with {FLOAT_BITS} bits: these values are not quantised, their step is 1")


def check_fingerprint(fingerprint: bytes) -> None:
    """Raises PayloadError: not 16 bytes."""
    if not isinstance(fingerprint, bytes) or len(fingerprint) != FINGERPRINT_BYTES:
        raise PayloadError(f"fingerprint {fingerprint!r}: expected {FINGERPRINT_BYTES} bytes")


def check_tap_count(count: int) -> None:
    """Raises PayloadError: a message has 1 to 8 taps."""
    if not 1 <= count <= MAX_TAPS:
        raise PayloadError(f"{count} taps: allowed are 1 to {MAX_TAPS}")


def check_value_count(shapes: Sequence[Shape]) -> None:
    """Raises PayloadError: the feature maps of a message have too many values together."""
    values = sum(channels * height * width for channels, height, width in shapes)
    if values > MAX_TAP_VALUES:
        raise PayloadError(f"feature maps of {values} values: allowed are {MAX_TAP_VALUES}")


def _check_shape(shape: Shape) -> None:
    if not isinstance(shape, tuple) or len(shape) != 3 or not all(isinstance(side, int) for side in shape):
        raise PayloadError(f"tap of shape {shape!r}: expected a tuple of three int, channels, height and width")
    channels, height, width = shape
    if not (1 <= channels <= MAX_CHANNELS and 1 <= height <= MAX_SIDE and 1 <= width <= MAX_SIDE):
        raise PayloadError(f"tap of shape {shape}: allowed are 1 to {MAX_CHANNELS} channels and sides 1 to {MAX_SIDE}")
    check_value_count([shape])


def check_kept(kept: np.ndarray, channels: int) -> None:
    """Raises PayloadError: the kept channels (K,) do not rise, or are not within 0..channels-1."""
    if np.any(kept[1:] <= kept[:-1]) or np.any(kept < 0) or np.any(kept >= channels):
        raise PayloadError(f"kept channels must rise and lie in 0..{channels - 1}")


def _check_codes(codes: np.ndarray, bits: int) -> None:
    if bits == FLOAT_BITS:
        allowed = np.isfinite(codes)
    elif bits == 1:
        allowed = np.abs(codes) == 1
    else:
        low, high = CODE_RANGES[bits]
        allowed = (codes >= low) & (codes <= high)
    if not allowed.all():
        raise PayloadError(f"code {codes[~allowed][0]} does not go with {bits} bits")
