"""Five-point alignment: the formula, known motions, and where pixels land."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchkit.data.align import TEMPLATE_PX, align_face, fit_similarity


def similarity(angle_rad: float, scale: float, shift: tuple[float, float]) -> np.ndarray:
    cos, sin = scale * np.cos(angle_rad), scale * np.sin(angle_rad)
    return np.array([[cos, -sin, shift[0]], [sin, cos, shift[1]]])


def move(points: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    return points @ matrix[:, :2].T + matrix[:, 2]


def umeyama(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Eqs. 40 to 42 of Umeyama (1991), by singular values."""
    source_mean, target_mean = source.mean(0), target.mean(0)
    covariance = (target - target_mean).T @ (source - source_mean) / len(source)
    u, d, vt = np.linalg.svd(covariance)
    s = np.array([1, np.sign(np.linalg.det(u) * np.linalg.det(vt))])
    rotation = u @ np.diag(s) @ vt
    scale = (d * s).sum() / np.square(source - source_mean).sum(1).mean()
    return np.column_stack([scale * rotation, target_mean - scale * rotation @ source_mean])


def normal_equations(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Least squares over the four unknowns of [[a, -b, c], [b, a, d]]."""
    rows = [row for x, y in source for row in ([x, -y, 1, 0], [y, x, 0, 1])]
    a, b, c, d = np.linalg.lstsq(np.array(rows), target.ravel(), rcond=None)[0]
    return np.array([[a, -b, c], [b, a, d]])


@given(
    angle_rad=st.floats(-3.1, 3.1),
    scale=st.floats(0.05, 20),
    shift=st.tuples(st.floats(-500, 500), st.floats(-500, 500)),
)
def test_known_rotation_scale_and_shift_are_undone(angle_rad: float, scale: float, shift: tuple[float, float]) -> None:
    motion = similarity(angle_rad, scale, shift)
    matrix = fit_similarity(move(TEMPLATE_PX, motion), TEMPLATE_PX)
    np.testing.assert_allclose(move(move(TEMPLATE_PX, motion), matrix), TEMPLATE_PX, atol=1e-6)
    inverse = np.linalg.inv(np.vstack([motion, [0, 0, 1]]))[:2]
    np.testing.assert_allclose(matrix, inverse, atol=1e-6)


@given(seed=st.integers(0, 1000), noise_px=st.sampled_from([0.1, 3, 30]))
def test_fit_is_the_least_squares_solution(seed: int, noise_px: float) -> None:
    rng = np.random.default_rng(seed)
    source = move(TEMPLATE_PX, similarity(0.4, 2.5, (90, -20))) + rng.normal(0, noise_px, (5, 2))
    matrix = fit_similarity(source, TEMPLATE_PX)
    np.testing.assert_allclose(matrix, umeyama(source, TEMPLATE_PX), atol=1e-8)
    np.testing.assert_allclose(matrix, normal_equations(source, TEMPLATE_PX), atol=1e-8)


def test_mirrored_points_are_rotated_never_reflected() -> None:
    mirrored = TEMPLATE_PX * [-1, 1]
    matrix = fit_similarity(mirrored, TEMPLATE_PX)
    assert np.linalg.det(matrix[:, :2]) > 0
    np.testing.assert_allclose(matrix, umeyama(mirrored, TEMPLATE_PX), atol=1e-9)


def test_template_is_symmetric_enough_to_be_a_face() -> None:
    """Eyes above the nose above the mouth, left before right, all inside."""
    eyes, nose, mouth = TEMPLATE_PX[:2], TEMPLATE_PX[2], TEMPLATE_PX[3:]
    assert eyes[:, 1].max() < nose[1] < mouth[:, 1].min()
    assert eyes[0, 0] < nose[0] < eyes[1, 0] and mouth[0, 0] < nose[0] < mouth[1, 0]
    np.testing.assert_allclose(eyes[:, 0].mean(), mouth[:, 0].mean(), atol=1)


def test_aligned_image_stays_as_it_is(image: np.ndarray) -> None:
    np.testing.assert_array_equal(align_face(image, TEMPLATE_PX), image)


def test_shifted_image_comes_back_and_black_fills_the_rest(image: np.ndarray) -> None:
    wide = np.zeros((150, 140, 3), np.uint8)
    wide[20:132, 10:122] = image
    np.testing.assert_array_equal(align_face(wide, TEMPLATE_PX + np.array([10, 20])), image)
    cut = image[:, 30:]
    aligned = align_face(cut, TEMPLATE_PX - np.array([30, 0]))
    np.testing.assert_array_equal(aligned[:, 30:], cut)
    assert (aligned[:, :30] == 0).all()


def test_points_of_a_turned_large_image_land_on_the_template() -> None:
    points = move(TEMPLATE_PX, similarity(0.5, 3.0, (250, 60)))
    y, x = np.mgrid[0:600, 0:700]
    large = np.zeros((600, 700, 3), np.uint8)
    colours = [(250, 0, 0), (0, 250, 0), (0, 0, 250), (250, 250, 0), (0, 250, 250)]
    for (px, py), colour in zip(points, colours, strict=True):
        large[(x - px) ** 2 + (y - py) ** 2 < 12**2] = colour
    aligned = align_face(large, points)
    for (px, py), colour in zip(TEMPLATE_PX, colours, strict=True):
        seen = np.argwhere((aligned == colour).all(axis=-1))  # rows of y, x
        np.testing.assert_allclose(seen.mean(axis=0), [py, px], atol=0.6)


@pytest.mark.parametrize(
    ("points", "message"),
    [
        (np.full((5, 2), 40.0), "lie in one place"),
        (np.where(np.eye(5, 2) > 0, np.nan, TEMPLATE_PX), "not finite"),
        (np.where(np.eye(5, 2) > 0, np.inf, TEMPLATE_PX), "not finite"),
        (TEMPLATE_PX + 200, "all five points lie outside the image of 112x112"),
    ],
)
def test_points_that_are_no_face(image: np.ndarray, points: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        align_face(image, points)
