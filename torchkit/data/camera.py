"""What a camera does to a face before a client sees it: light, slight misalignment, JPEG. On 8-bit images."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np


@dataclass(frozen=True)
class Camera:
    """Changes faces at random; every range includes both ends.

    Args:
        brightness: factors of the pixel values, (1, 1) for none; drawn evenly in their logarithm.
        shift_px: largest shift along either axis, in whole pixels; what comes in at the edge is mirrored.
        jpeg_quality: of JPEG, 0..100; None: not compressed.
        share: of the faces that are changed; the others stay as they are.
    """

    brightness: tuple[float, float] = (1.0, 1.0)
    shift_px: int = 0
    jpeg_quality: tuple[int, int] | None = None
    share: float = 1.0

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """(H, W, 3) uint8 RGB -> the same."""
        if rng.random() >= self.share:
            return image
        factor = np.exp(rng.uniform(*np.log(self.brightness)))
        down, right = rng.integers(-self.shift_px, self.shift_px, endpoint=True, size=2)
        image = shifted(brightened(image, factor), int(down), int(right))
        if self.jpeg_quality is None:
            return image
        return recompressed(image, int(rng.integers(*self.jpeg_quality, endpoint=True)))


CAMERAS = {
    "jpeg": Camera(jpeg_quality=(20, 40)),
    "shift": Camera(shift_px=6),
    "light": Camera(brightness=(0.5, 2.0)),
}
"""What validation asks: strong compression, alignment that is off by up to 6 pixels, half to double the light."""


def brightened(image: np.ndarray, factor: float) -> np.ndarray:
    """Pixel values times `factor`, rounded, and clipped as a sensor clips."""
    return cv2.convertScaleAbs(image, alpha=factor)


def shifted(image: np.ndarray, down: int, right: int) -> np.ndarray:
    """The image moved by whole pixels; its edge pixels stand as mirrors for what comes in."""
    height, width = image.shape[:2]
    margin = max(abs(down), abs(right))
    padded = cv2.copyMakeBorder(image, margin, margin, margin, margin, cv2.BORDER_REFLECT_101)
    top, left = margin - down, margin - right
    return np.ascontiguousarray(padded[top : top + height, left : left + width])


def recompressed(image: np.ndarray, quality: int) -> np.ndarray:
    """The image (RGB) after JPEG of `quality` 0..100 and back."""
    _, data = cv2.imencode(".jpg", image[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    decoded = cv2.imdecode(data, cv2.IMREAD_COLOR)
    assert decoded is not None
    return np.ascontiguousarray(decoded[:, :, ::-1])
