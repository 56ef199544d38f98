"""Obfuscations, the visible change of an image: NumPy in, NumPy out, 8 bits, one image at a time.

`obfuscate` applies a kind with given settings; `RandomObfuscation` draws settings for training; `EVALUATION` holds the
fixed ones of validation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import field

import numpy as np
from pydantic import field_validator
from pydantic.dataclasses import dataclass

from torchkit.obfuscation.functional import Layer, gaussian, hybrid, median, pixelate
from torchkit.util.pixels import INPUT_SIZE_PX
from torchkit.util.seeding import content_stream
from torchkit.util.settings import UPPER_CASE_KEYS


@dataclass(frozen=True)
class Strength:
    """The strength of an obfuscation; the defaults are the evaluation settings."""

    sigma_px: float = 5.0
    """Standard deviation of the Gaussian in pixels."""
    median_kernel_px: int = 13
    """Side of the median's window in pixels, odd."""
    blocks: tuple[int, int] = (16, 16)
    """Rows and columns of blocks that pixelation produces."""
    grid: tuple[int, int] = (4, 4)
    """Rows and columns of the hybrid's cells."""


def _hybrid(image: np.ndarray, strength: Strength, rng: np.random.Generator) -> np.ndarray:
    # The median is by far the slowest: it is computed only where it is shown.
    layers: dict[str, Layer] = {
        "median": lambda cell: median(image, strength.median_kernel_px, cell),
        "gaussian": gaussian(image, strength.sigma_px).__getitem__,
        "pixelate": pixelate(image, strength.blocks).__getitem__,
    }
    return hybrid(image.shape, layers, assign_cells(strength.grid, rng))


KINDS: dict[str, Callable[[np.ndarray, Strength, np.random.Generator], np.ndarray]] = {
    "gaussian": lambda image, strength, rng: gaussian(image, strength.sigma_px),
    "median": lambda image, strength, rng: median(image, strength.median_kernel_px),
    "pixelate": lambda image, strength, rng: pixelate(image, strength.blocks),
    "hybrid": _hybrid,
}
"""Obfuscations by name: image (H, W, 3) uint8, settings and random numbers -> (H, W, 3) uint8."""

EVALUATION = Strength()
EVALUATION_SEED = 1234
"""Default seed of the hybrid's cells, in validation and for messages alike."""


@dataclass(frozen=True, config=UPPER_CASE_KEYS)
class RandomObfuscation:
    """Draw an obfuscation for a training image: kind by weight, strength uniformly; ranges include both ends."""

    kinds: dict[str, float] = field(default_factory=lambda: {"hybrid": 1.0})
    """Obfuscation -> relative frequency."""
    sigma_px: tuple[float, float] = (2.0, 8.0)
    median_kernel_px: tuple[int, int] = (7, 19)
    block_px: tuple[int, int] = (3, 11)
    grid: tuple[int, int] = (2, 5)

    @field_validator("kinds")
    @classmethod
    def _check_kinds(cls, kinds: dict[str, float]) -> dict[str, float]:
        unknown = [kind for kind in kinds if kind not in KINDS]
        if unknown or not kinds or min(kinds.values()) < 0 or sum(kinds.values()) <= 0:
            raise ValueError(f"{kinds!r}: allowed are {', '.join(KINDS)} with frequencies >= 0, one of them > 0")
        return kinds

    @field_validator("sigma_px", "median_kernel_px", "block_px", "grid")
    @classmethod
    def _check_range(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0 < value[0] <= value[1] <= INPUT_SIZE_PX:
            raise ValueError(f"{list(value)}: expected [low, high] with 0 < low <= high <= {INPUT_SIZE_PX}")
        return value

    @field_validator("median_kernel_px")
    @classmethod
    def _check_odd(cls, value: tuple[int, int]) -> tuple[int, int]:
        if value[0] % 2 == 0 or value[1] % 2 == 0 or value[0] < 3:
            raise ValueError(f"{list(value)}: a median's window has an odd side of at least 3 pixels")
        return value

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Obfuscate (H, W, 3) uint8 with settings drawn from `rng`."""
        names = list(self.kinds)
        weights = np.array([self.kinds[name] for name in names], float)
        kind = names[rng.choice(len(names), p=weights / weights.sum())]
        return obfuscate(image, kind, rng, self.strength(image.shape[0], rng))

    def strength(self, size_px: int, rng: np.random.Generator) -> Strength:
        """Draw settings for an image of `size_px`."""
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
    if kind not in KINDS:
        raise ValueError(f"unknown obfuscation {kind!r}; known: {', '.join(KINDS)}")
    return KINDS[kind](image, strength, rng)


def evaluation_image(image: np.ndarray, kind: str, seed: int) -> np.ndarray:
    """Obfuscate (112, 112, 3) uint8 RGB as in validation: evaluation settings, cells drawn from seed and content."""
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
