"""Simulate a camera on 8-bit images, before the client sees them: light, slight misalignment, JPEG."""

from __future__ import annotations

from typing import Annotated

import cv2
import numpy as np
from pydantic import Field, field_validator
from pydantic.dataclasses import dataclass

from torchkit.util.pixels import INPUT_SIZE_PX
from torchkit.util.settings import UPPER_CASE_KEYS, Share


@dataclass(frozen=True, config=UPPER_CASE_KEYS)
class Camera:
    """Change faces at random; every range includes both ends."""

    share: Share = 0.0
    """Share of the faces that are changed; the others stay as they are."""
    brightness: tuple[float, float] = (0.5, 2.0)
    """Range of the factor of the pixel values, drawn log-uniformly; (1, 1): none."""
    shift_px: Annotated[int, Field(ge=0, le=INPUT_SIZE_PX // 4)] = 6
    """Largest shift along either axis, in whole pixels; the edge is mirrored."""
    jpeg_quality: tuple[int, int] | None = (20, 95)
    """Range of the JPEG quality, 0..100; None: not compressed."""

    @field_validator("brightness")
    @classmethod
    def _check_brightness(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0 < value[0] <= value[1]:
            raise ValueError(f"{list(value)}: expected [low, high] with 0 < low <= high")
        return value

    @field_validator("jpeg_quality")
    @classmethod
    def _check_jpeg_quality(cls, value: tuple[int, int] | None) -> tuple[int, int] | None:
        if value is not None and not 0 <= value[0] <= value[1] <= 100:
            raise ValueError(f"{list(value)}: expected [low, high] with 0 <= low <= high <= 100")
        return value

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """(H, W, 3) uint8 RGB -> the same."""
        if not self.share or rng.random() >= self.share:
            return image
        factor = np.exp(rng.uniform(*np.log(self.brightness)))
        down, right = rng.integers(-self.shift_px, self.shift_px, endpoint=True, size=2)
        image = shifted(brightened(image, factor), int(down), int(right))
        if self.jpeg_quality is None:
            return image
        return recompressed(image, int(rng.integers(*self.jpeg_quality, endpoint=True)))


CAMERAS = {
    "jpeg": Camera(share=1, brightness=(1, 1), shift_px=0, jpeg_quality=(20, 40)),
    "shift": Camera(share=1, brightness=(1, 1), shift_px=6, jpeg_quality=None),
    "light": Camera(share=1, brightness=(0.5, 2), shift_px=0, jpeg_quality=None),
}
"""The cameras of validation: strong compression, misalignment by up to 6 pixels, half to double the light."""


def brightened(image: np.ndarray, factor: float) -> np.ndarray:
    """Multiply pixel values by `factor`, round and clip."""
    return cv2.convertScaleAbs(image, alpha=factor)


def shifted(image: np.ndarray, down: int, right: int) -> np.ndarray:
    """Shift the image by whole pixels; mirror it at its edge."""
    height, width = image.shape[:2]
    margin = max(abs(down), abs(right))
    padded = cv2.copyMakeBorder(image, margin, margin, margin, margin, cv2.BORDER_REFLECT_101)
    top, left = margin - down, margin - right
    return np.ascontiguousarray(padded[top : top + height, left : left + width])


def recompressed(image: np.ndarray, quality: int) -> np.ndarray:
    """Compress the image (RGB) to JPEG of `quality` 0..100, and decode it."""
    _, data = cv2.imencode(".jpg", image[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    decoded = cv2.imdecode(data, cv2.IMREAD_COLOR)
    assert decoded is not None
    return np.ascontiguousarray(decoded[:, :, ::-1])
