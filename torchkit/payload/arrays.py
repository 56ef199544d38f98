"""Read-only arrays for frozen dataclasses."""

from __future__ import annotations

import numpy as np

from torchkit.payload.limits import PayloadError


def read_only(array: np.ndarray, name: str, shape: tuple[int | None, ...], dtype: type[np.generic]) -> np.ndarray:
    """Check an array and return a read-only copy in C order, so that what was checked stays valid.

    Args:
        array: the array to check.
        name: its name, for messages.
        shape: the expected one; None for a side of any length.
        dtype: the expected one.

    Raises:
        PayloadError: another type, shape or dtype.
    """
    if not isinstance(array, np.ndarray):
        raise PayloadError(f"{name}: expected a NumPy array, not {type(array).__name__}")
    fits = len(array.shape) == len(shape) and all(
        side in (None, have) for side, have in zip(shape, array.shape, strict=True)
    )
    if not fits or array.dtype != dtype:
        expected = tuple("any" if side is None else side for side in shape)
        raise PayloadError(f"{name} {array.shape}, {array.dtype}: expected {expected}, {np.dtype(dtype)}")
    copy = array.copy()
    copy.flags.writeable = False
    return copy
