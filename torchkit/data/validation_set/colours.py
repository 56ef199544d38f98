"""Convert published pixels, float32 in [-1, 1], to 8 bits and back without loss."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

RANGE_TOLERANCE = 1e-3
"""Far above float32 rounding, far below one step of 8 bits (2 / 255)."""


def to_8_bits(block: np.ndarray) -> np.ndarray:
    """Convert values v / 127.5 - 1 to uint8 v; values within the tolerance outside round to 0 or 255."""
    with np.errstate(invalid="ignore"):  # NaN is the caller's to refuse
        return np.rint((block + np.float32(1)) * np.float32(127.5)).astype(np.uint8)


def to_floats(images: np.ndarray) -> np.ndarray:
    """Convert uint8 v to float32 v / 127.5 - 1; `to_8_bits` restores all 256 values."""
    return images.astype(np.float32) / np.float32(127.5) - np.float32(1)


def rows_out_of_range(block: np.ndarray) -> Iterator[tuple[int, float]]:
    """Yield row and first offending value of each row of `block` (n, ...) with values outside [-1, 1] or NaN."""
    inside = np.abs(block) <= 1 + RANGE_TOLERANCE  # false for NaN too
    for row in np.flatnonzero(~inside.reshape(len(block), -1).all(axis=1)):
        yield int(row), float(block[row][~inside[row]][0])
