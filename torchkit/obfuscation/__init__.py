"""Obfuscation: the visible change of the image. NumPy in, NumPy out, 8 bits, one image at a time.

`obfuscate` applies a kind with given settings; `RandomObfuscation` draws settings for training; `EVALUATION` holds the
fixed ones of validation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from torchkit.obfuscation.functional import Layer, gaussian, hybrid, median, pixelate
from torchkit.util.seeding import content_stream

KINDS = ("gaussian", "median", "pixelate", "hybrid")


@dataclass(frozen=True)
class Strength:
    """How strongly to obfuscate; the defaults are the evaluation settings."""

    sigma_px: float = 5.0
    """Standard deviation of the Gaussian in pixels."""
    median_kernel_px: int = 13
    """Side of the median's window in pixels, odd."""
    blocks: tuple[int, int] = (16, 16)
    """Rows and columns of blocks that pixelation leaves."""
    grid: tuple[int, int] = (4, 4)
    """Rows and columns of cells of the hybrid."""


EVALUATION = Strength()
EVALUATION_SEED = 1234
"""Default seed of the hybrid's cells, in validation and for messages alike."""


@dataclass(frozen=True)
class RandomObfuscation:
    """Draws an obfuscation for a training image: kind by weight, strength uniformly within the ranges."""

    kinds: Mapping[str, float] = field(default_factory=lambda: {"hybrid": 1.0})
    sigma_px: tuple[float, float] = (2.0, 8.0)
    median_kernel_px: tuple[int, int] = (7, 19)
    block_px: tuple[int, int] = (3, 11)
    grid: tuple[int, int] = (2, 5)

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Obfuscate (H, W, 3) uint8 with settings drawn from `rng`."""
        names = list(self.kinds)
        weights = np.array([self.kinds[name] for name in names], float)
        kind = names[rng.choice(len(names), p=weights / weights.sum())]
        return obfuscate(image, kind, rng, self.strength(image.shape[0], rng))

    def strength(self, size_px: int, rng: np.random.Generator) -> Strength:
        """Settings for an image of `size_px`."""
        low, high = self.median_kernel_px
        blocks = round(size_px / rng.integers(self.block_px[0], self.block_px[1] + 1))
        cells = int(rng.integers(self.grid[0], self.grid[1] + 1))
        return Strength(
            sigma_px=float(rng.uniform(*self.sigma_px)),
            median_kernel_px=int(rng.integers(low // 2, high // 2 + 1)) * 2 + 1,
            blocks=(blocks, blocks),
            grid=(cells, cells),
        )


def obfuscate(image: np.ndarray, kind: str, rng: np.random.Generator, strength: Strength = EVALUATION) -> np.ndarray:
    """Obfuscate one image.

    Args:
        image: (H, W, 3) uint8.
        kind: one of `KINDS`.
        rng: draws the hybrid's assignment; the other kinds leave it untouched.
        strength: settings; default: those of evaluation.

    Returns:
        (H, W, 3) uint8.

    Raises:
        ValueError: an unknown kind.
    """
    if kind == "gaussian":
        return gaussian(image, strength.sigma_px)
    if kind == "median":
        return median(image, strength.median_kernel_px)
    if kind == "pixelate":
        return pixelate(image, strength.blocks)
    if kind == "hybrid":
        # The median is by far the slowest: it is computed only where it is shown.
        layers: dict[str, Layer] = {
            "median": lambda cell: median(image, strength.median_kernel_px, cell),
            "gaussian": gaussian(image, strength.sigma_px).__getitem__,
            "pixelate": pixelate(image, strength.blocks).__getitem__,
        }
        return hybrid(image.shape, layers, assign_cells(strength.grid, rng))
    raise ValueError(f"unknown obfuscation {kind!r}; known: {', '.join(KINDS)}")


def evaluation_image(image: np.ndarray, kind: str, seed: int) -> np.ndarray:
    """An image (112, 112, 3) uint8 RGB obfuscated as in validation: evaluation settings, cells by seed and content."""
    return obfuscate(image, kind, content_stream(image, seed, kind))


def assign_cells(grid: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """(rows, columns) of names: a random third each median and Gaussian (rounded down), the rest pixelate."""
    cells = grid[0] * grid[1]
    third = cells // 3
    names = np.array(["median"] * third + ["gaussian"] * third + ["pixelate"] * (cells - 2 * third))
    return rng.permutation(names).reshape(grid)


__all__ = [
    "EVALUATION", "EVALUATION_SEED", "KINDS", "RandomObfuscation", "Strength", "assign_cells", "evaluation_image",
    "obfuscate",
]  # fmt: skip
