"""The four obfuscations as pure functions: (H, W, 3) uint8 in, (H, W, 3) uint8 out.

The client sends an 8-bit image, so these functions return one, and the residual is taken against it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import cv2
import numpy as np

Cell = tuple[slice, slice]
"""Rows and columns of an image."""
Layer = Callable[[Cell], np.ndarray]
WHOLE: Cell = (slice(None), slice(None))
GAUSSIAN_KERNEL_PX = 31
ROUNDED_GREY = 128
"""Mid-grey, 127.5, the zero of the [-1, 1] range, in 8 bits."""


def gaussian(image: np.ndarray, sigma_px: float) -> np.ndarray:
    """Gaussian blur with a 31x31 kernel and reflected border (the edge pixel is not repeated).

    Args:
        image: (H, W, 3) uint8.
        sigma_px: standard deviation in pixels.
    """
    size = (GAUSSIAN_KERNEL_PX, GAUSSIAN_KERNEL_PX)
    blurred = cv2.GaussianBlur(image.astype(np.float32), size, sigma_px, borderType=cv2.BORDER_REFLECT_101)
    return _to_uint8(blurred)


def median(image: np.ndarray, kernel_px: int, cell: Cell = WHOLE) -> np.ndarray:
    """Median filter with a border of mid-grey (127.5); a half is rounded to even.

    The median of an odd number of values is one of these values: a pixel, or the grey, which rounds to 128. A border of
    128 gives the same result, since no 8-bit pixel lies between the two.

    Args:
        image: (H, W, 3) uint8.
        kernel_px: odd side of the window in pixels.
        cell: rows and columns to compute; default: all.
    """
    half = kernel_px // 2
    grey = (ROUNDED_GREY,) * 3
    padded = cv2.copyMakeBorder(image, half, half, half, half, cv2.BORDER_CONSTANT, value=grey)
    rows, columns = (range(*part.indices(size)) for part, size in zip(cell, image.shape[:2], strict=True))
    around = padded[rows[0] : rows[-1] + 2 * half + 1, columns[0] : columns[-1] + 2 * half + 1]
    return cv2.medianBlur(np.ascontiguousarray(around), kernel_px)[half : half + len(rows), half : half + len(columns)]


def pixelate(image: np.ndarray, blocks: tuple[int, int]) -> np.ndarray:
    """Sample the image at `blocks` (rows, columns) points, bilinear without antialiasing, and magnify.

    The sample points are the block centres; with an odd block side that is a pixel, else the mean of the pixels
    around it. Back to full size by nearest neighbour.
    """
    height, width = image.shape[:2]
    small = _to_uint8(_sample_bilinear(image, blocks))
    rows = np.arange(height) * blocks[0] // height
    columns = np.arange(width) * blocks[1] // width
    return small[rows[:, None], columns]


def _sample_bilinear(image: np.ndarray, blocks: tuple[int, int]) -> np.ndarray:
    """(rows, columns, 3) float32 samples at the centres of an even grid (half-pixel convention)."""
    out = image.astype(np.float32)
    for axis, count in enumerate(blocks):
        size = image.shape[axis]
        centre = np.maximum((np.arange(count) + 0.5) * size / count - 0.5, 0)
        low = np.minimum(centre.astype(np.int64), size - 1)
        high = np.minimum(low + 1, size - 1)
        shape = [1, 1, 1]
        shape[axis] = count
        weight = (centre - low).astype(np.float32).reshape(shape)
        out = out.take(low, axis) * (1 - weight) + out.take(high, axis) * weight
    return out


def _to_uint8(image: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def hybrid(shape: tuple[int, ...], layers: Mapping[str, Layer], assignment: np.ndarray) -> np.ndarray:
    """Put together an image from cells under different obfuscations.

    Args:
        shape: (H, W, 3) of the image.
        layers: obfuscation name -> function that gives the obfuscated pixels of a cell.
        assignment: (rows, columns) of names: which obfuscation each cell of the grid shows.
    """
    out = np.empty(shape, np.uint8)
    rows = np.linspace(0, shape[0], assignment.shape[0] + 1).round().astype(int).tolist()
    columns = np.linspace(0, shape[1], assignment.shape[1] + 1).round().astype(int).tolist()
    for r, row in enumerate(assignment):
        for c, name in enumerate(row):
            cell = np.s_[rows[r] : rows[r + 1], columns[c] : columns[c + 1]]
            out[cell] = layers[name](cell)
    return out
