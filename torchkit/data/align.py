"""Align faces by five points: the similarity transform that fits a face best to the ArcFace template.

The template is that of the published recognisers (Deng et al., ArcFace, CVPR 2019), the fit that of Umeyama,
"Least-squares estimation of transformation parameters between two point patterns", TPAMI 1991.
"""

from __future__ import annotations

import cv2
import numpy as np

from torchkit.util.pixels import INPUT_SIZE_PX

TEMPLATE_PX = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)
"""(5, 2) x and y in a 112x112 image: eyes, tip of the nose, corners of the mouth; left is the image's left."""
MIN_SPREAD_PX = 1.0
"""Least root mean square distance of the points from their centre; closer points define no face."""


def fit_similarity(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Fit rotation, scale and shift from `source` to `target` by least squares, without reflection.

    With points as complex numbers, a similarity is w = a z + b. In two dimensions Umeyama's solution is this linear
    regression: a = sum conj(z - z0) (w - w0) / sum |z - z0|^2 and b = w0 - a z0, with z0 and w0 the means.

    Args:
        source: (N, 2) points in pixels, x and y.
        target: (N, 2) points in pixels.

    Returns:
        (2, 3) float64 matrix M: target is about source @ M[:, :2].T + M[:, 2].

    Raises:
        ValueError: a value is not finite, or the points coincide.
    """
    if not (np.isfinite(source).all() and np.isfinite(target).all()):
        raise ValueError("a coordinate is not finite")
    z = source.astype(np.float64) @ [1, 1j]
    w = target.astype(np.float64) @ [1, 1j]
    z0, w0 = z.mean(), w.mean()
    spread = np.square(np.abs(z - z0)).mean()
    if spread < MIN_SPREAD_PX**2:
        raise ValueError("the points lie in one place")
    a = (np.conj(z - z0) * (w - w0)).mean() / spread
    b = w0 - a * z0
    return np.array([[a.real, -a.imag, b.real], [a.imag, a.real, b.imag]])


def align_face(image: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Cut out a face so that its five points lie on the template; pixels outside the image become black.

    Bilinear, like the training data of the published recognisers.

    Args:
        image: (H, W, 3) uint8.
        points: (5, 2) x and y in pixels, in the template's order.

    Returns:
        (112, 112, 3) uint8, colours in the order of `image`.

    Raises:
        ValueError: points that are not finite or coincide, or a face outside the image.
    """
    matrix = fit_similarity(points, TEMPLATE_PX)
    height, width = image.shape[:2]
    inside = (points >= 0) & (points <= [width - 1, height - 1])
    if not inside.all(axis=1).any():
        raise ValueError(f"all five points lie outside the image of {width}x{height}")
    return cv2.warpAffine(image, matrix, (INPUT_SIZE_PX, INPUT_SIZE_PX), flags=cv2.INTER_LINEAR)
