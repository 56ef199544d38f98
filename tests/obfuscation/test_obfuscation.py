"""The four obfuscations against naive loops over their formulas, and the sampler of training settings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchkit.obfuscation import EVALUATION, KINDS, RandomObfuscation, Strength, assign_cells, obfuscate
from torchkit.obfuscation.functional import gaussian, hybrid, median, pixelate


def reflected(position: int, size: int) -> int:
    """Index of a pixel outside the image, mirrored about the edge pixel."""
    while not 0 <= position < size:
        position = -position if position < 0 else 2 * (size - 1) - position
    return position


def naive_gaussian(image: np.ndarray, sigma: float) -> np.ndarray:
    """Weighted sum over a 31x31 window, float64."""
    height, width = image.shape[:2]
    offsets = range(-15, 16)
    weights = {(v, u): np.exp(-(v * v + u * u) / (2 * sigma * sigma)) for v in offsets for u in offsets}
    out = np.zeros(image.shape)
    for (v, u), weight in weights.items():
        rows = [reflected(y + v, height) for y in range(height)]
        columns = [reflected(x + u, width) for x in range(width)]
        out += weight * image[np.ix_(rows, columns)]
    return out / sum(weights.values())


def naive_median(image: np.ndarray, kernel: int) -> np.ndarray:
    """Median of each window, with 127.5 outside the image; a half is rounded to even."""
    half = kernel // 2
    padded = np.pad(image.astype(np.float64), ((half, half), (half, half), (0, 0)), constant_values=127.5)
    out = np.empty(image.shape)
    for y in range(image.shape[0]):
        for x in range(image.shape[1]):
            out[y, x] = np.median(padded[y : y + kernel, x : x + kernel], axis=(0, 1))
    return np.rint(out)


def naive_bilinear(image: np.ndarray, y: float, x: float) -> np.ndarray:
    """The image at a point between pixel centres, the edge pixels going on outside."""
    y, x = max(y, 0.0), max(x, 0.0)
    top, left = int(y), int(x)
    bottom, right = min(top + 1, image.shape[0] - 1), min(left + 1, image.shape[1] - 1)
    v, u = y - top, x - left
    pixels = image.astype(np.float64)
    upper = (1 - u) * pixels[top, left] + u * pixels[top, right]
    lower = (1 - u) * pixels[bottom, left] + u * pixels[bottom, right]
    return (1 - v) * upper + v * lower


def naive_pixelate(image: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """Sample at the block centres (half-pixel convention), then nearest neighbour; float64."""
    height, width = image.shape[:2]
    small = np.empty((rows, columns, 3))
    for r in range(rows):
        for c in range(columns):
            small[r, c] = naive_bilinear(image, (r + 0.5) * height / rows - 0.5, (c + 0.5) * width / columns - 0.5)
    out = np.empty(image.shape)
    for y in range(height):
        for x in range(width):
            out[y, x] = small[int(y * rows / height), int(x * columns / width)]
    return out


@pytest.mark.parametrize("sigma", [2.0, 5.0, 8.0])
def test_gaussian_is_the_weighted_mean_of_a_31_pixel_window(image: np.ndarray, sigma: float) -> None:
    difference = np.abs(gaussian(image, sigma) - naive_gaussian(image, sigma))
    assert difference.max() <= 0.5 + 1e-3  # rounded to 8 bits


@pytest.mark.parametrize("kernel", [3, 7, 13, 19])
def test_median_is_exact(image: np.ndarray, kernel: int) -> None:
    crop = np.ascontiguousarray(image[30:70, 20:53])
    assert np.array_equal(median(crop, kernel), naive_median(crop, kernel))


@given(
    top=st.integers(0, 39), left=st.integers(0, 39), height=st.integers(1, 40), width=st.integers(1, 40),
    kernel=st.sampled_from([3, 7, 13, 19]),
)  # fmt: skip
def test_median_of_a_cell_is_that_part_of_the_median(
    image: np.ndarray, top: int, left: int, height: int, width: int, kernel: int
) -> None:
    """Whether or not the windows of the cell reach the border."""
    crop = np.ascontiguousarray(image[30:70, 20:60])
    cell = np.s_[top : min(top + height, 40), left : min(left + width, 40)]
    assert np.array_equal(median(crop, kernel, cell), median(crop, kernel)[cell])


def test_median_of_mostly_border_is_mid_grey_rounded_to_even(image: np.ndarray) -> None:
    # 49 of the corner window's 169 values are pixels, the others 127.5.
    assert (median(image, 13)[[0, 0, -1, -1], [0, -1, 0, -1]] == 128).all()


@pytest.mark.parametrize("values", [(126, 127), (127, 128), (128, 129), (0, 255)])
def test_median_of_values_around_mid_grey(values: tuple[int, int]) -> None:
    image = np.random.default_rng(0).choice(np.array(values, np.uint8), (20, 20, 3))
    assert np.array_equal(median(image, 5), naive_median(image, 5))


def test_pixelate_shows_the_centre_pixel_of_each_block(image: np.ndarray) -> None:
    expected = np.empty_like(image)
    for y in range(112):
        for x in range(112):
            expected[y, x] = image[y // 7 * 7 + 3, x // 7 * 7 + 3]
    assert np.array_equal(pixelate(image, (16, 16)), expected)


@pytest.mark.parametrize("blocks", [(10, 10), (14, 14), (19, 37), (28, 12), (56, 56)])
def test_pixelate_samples_bilinearly_where_a_centre_is_no_pixel(image: np.ndarray, blocks: tuple[int, int]) -> None:
    difference = np.abs(pixelate(image, blocks) - naive_pixelate(image, *blocks))
    assert difference.max() <= 0.5 + 1e-3  # rounded to 8 bits


def test_pixelate_to_as_many_blocks_as_pixels_changes_nothing(image: np.ndarray) -> None:
    assert np.array_equal(pixelate(image, (112, 112)), image)


@pytest.mark.parametrize("grid", [(2, 2), (4, 4), (2, 4), (3, 5), (5, 5)])
def test_every_cell_of_the_hybrid_shows_one_layer(image: np.ndarray, grid: tuple[int, int]) -> None:
    strength = Strength(grid=grid)
    layers = {kind: obfuscate(image, kind, np.random.default_rng(9)) for kind in ("median", "gaussian", "pixelate")}
    result = obfuscate(image, "hybrid", np.random.default_rng(0), strength)

    shown: Counter[str] = Counter()
    rows, columns = ([round(112 * i / n) for i in range(n + 1)] for n in grid)
    for top, bottom in pairwise(rows):
        for left, right in pairwise(columns):
            cell = np.s_[top:bottom, left:right]
            same = [kind for kind, layer in layers.items() if np.array_equal(layer[cell], result[cell])]
            assert len(same) == 1, (cell, same)
            shown[same[0]] += 1

    cells = grid[0] * grid[1]
    assert shown["median"] == shown["gaussian"] == cells // 3
    assert shown["pixelate"] == cells - 2 * (cells // 3)


def test_hybrid_puts_each_layer_where_it_is_assigned() -> None:
    layers = {n: np.full((6, 6, 3), value, np.uint8).__getitem__ for n, value in {"a": 1, "b": 2, "c": 3}.items()}
    assignment = np.array([["a", "b", "c"], ["c", "a", "b"]])
    expected = np.array([[1, 1, 2, 2, 3, 3]] * 3 + [[3, 3, 1, 1, 2, 2]] * 3)
    assert np.array_equal(hybrid((6, 6, 3), layers, assignment), np.repeat(expected[..., None], 3, axis=-1))


def test_hybrid_depends_on_the_generator_alone(image: np.ndarray) -> None:
    results = [obfuscate(image, "hybrid", np.random.default_rng(seed)) for seed in (1, 1, 2)]
    assert np.array_equal(results[0], results[1])
    assert not np.array_equal(results[0], results[2])


def test_every_cell_can_show_every_layer() -> None:
    drawn = np.array([assign_cells((4, 4), np.random.default_rng(seed)) for seed in range(100)])
    for row in range(4):
        for column in range(4):
            assert set(drawn[:, row, column]) == {"median", "gaussian", "pixelate"}


@pytest.mark.parametrize("kind", ["gaussian", "median", "pixelate"])
def test_other_kinds_leave_the_generator_alone(image: np.ndarray, kind: str) -> None:
    rng = np.random.default_rng(0)
    obfuscate(image, kind, rng)
    assert rng.integers(1 << 30) == np.random.default_rng(0).integers(1 << 30)


def test_evaluation_settings_are_the_papers(image: np.ndarray) -> None:
    assert Strength(sigma_px=5.0, median_kernel_px=13, blocks=(16, 16), grid=(4, 4)) == EVALUATION
    rng = np.random.default_rng(0)
    assert np.array_equal(obfuscate(image, "gaussian", rng), gaussian(image, 5.0))
    assert np.array_equal(obfuscate(image, "median", rng), median(image, 13))
    assert np.array_equal(obfuscate(image, "pixelate", rng), pixelate(image, (16, 16)))


@given(
    kind=st.sampled_from(list(KINDS)),
    height=st.integers(16, 60),
    width=st.integers(16, 60),
    seed=st.integers(0, 1 << 20),
)
def test_uint8_in_same_shape_out_again_and_again(kind: str, height: int, width: int, seed: int) -> None:
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    before = image.copy()
    first, second = (obfuscate(image, kind, np.random.default_rng(seed)) for _ in range(2))
    assert first.dtype == np.uint8 and first.shape == image.shape
    assert np.array_equal(first, second)
    assert np.array_equal(image, before), "the image itself must not change"


@given(colour=st.tuples(*[st.integers(0, 255)] * 3), sigma=st.floats(2, 8))
def test_gaussian_of_a_constant_image_is_that_image(colour: tuple[int, int, int], sigma: float) -> None:
    image = np.full((40, 33, 3), colour, np.uint8)
    assert np.array_equal(gaussian(image, sigma), image)


def test_unknown_kind_is_an_error_that_lists_the_known(image: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"'blur'.*gaussian, median, pixelate, hybrid"):
        obfuscate(image, "blur", np.random.default_rng(0))


def test_sampler_draws_the_whole_ranges_and_nothing_else() -> None:
    rng = np.random.default_rng(0)
    drawn = [RandomObfuscation().strength(112, rng) for _ in range(3000)]
    assert {s.median_kernel_px for s in drawn} == {7, 9, 11, 13, 15, 17, 19}
    assert {s.blocks for s in drawn} == {(round(112 / px),) * 2 for px in range(3, 12)}
    assert {s.grid for s in drawn} == {(2, 2), (3, 3), (4, 4), (5, 5)}
    sigmas = [s.sigma_px for s in drawn]
    assert 2 <= min(sigmas) < 2.02 and 7.98 < max(sigmas) <= 8


@given(low=st.integers(1, 20), width=st.integers(0, 10), seed=st.integers(0, 1 << 20), sigma=st.floats(0.5, 10))
def test_sampler_keeps_to_other_ranges(low: int, width: int, seed: int, sigma: float) -> None:
    odd = (2 * low + 1, 2 * (low + width) + 1)
    sampler = RandomObfuscation(
        sigma_px=(sigma, sigma + width), median_kernel_px=odd, block_px=(low, low + width), grid=(low, low + width)
    )
    strength = sampler.strength(112, np.random.default_rng(seed))
    assert sigma <= strength.sigma_px <= sigma + width
    assert strength.median_kernel_px % 2 == 1 and odd[0] <= strength.median_kernel_px <= odd[1]
    assert round(112 / (low + width)) <= strength.blocks[0] == strength.blocks[1] <= round(112 / low)
    assert low <= strength.grid[0] == strength.grid[1] <= low + width


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("gaussian", lambda image: gaussian(image, 3.0)),
        ("median", lambda image: median(image, 9)),
        ("pixelate", lambda image: pixelate(image, (16, 16))),
    ],
)
def test_sampler_applies_what_it_draws(
    image: np.ndarray, kind: str, expected: Callable[[np.ndarray], np.ndarray]
) -> None:
    sampler = RandomObfuscation({kind: 2.0, "hybrid": 0.0}, (3.0, 3.0), (9, 9), (7, 7))
    assert np.array_equal(sampler(image, np.random.default_rng(5)), expected(image))


def test_sampler_draws_kinds_by_weight() -> None:
    image = np.zeros((16, 16, 3), np.uint8)
    image[::2, ::2] = 255
    sampler = RandomObfuscation(
        {"gaussian": 1.0, "pixelate": 3.0}, block_px=(1, 1)
    )  # one-pixel blocks: the image itself
    rng = np.random.default_rng(0)
    unchanged = sum(np.array_equal(sampler(image, rng), image) for _ in range(400))
    assert 260 <= unchanged <= 340  # 300 expected, 4.6 standard deviations either way
