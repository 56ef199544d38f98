"""What a camera does to faces, against formulas."""

from __future__ import annotations

import io
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from torchkit.data.camera import CAMERAS, Camera, brightened, recompressed, shifted
from torchkit.data.index import read_index
from torchkit.data.training_set import SampleKey, TrainingSet
from torchkit.obfuscation import RandomObfuscation
from torchkit.util.seeding import stream


def face(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (112, 112, 3), dtype=np.uint8)


@given(down=st.integers(-9, 9), right=st.integers(-9, 9))
def test_a_shift_moves_every_pixel_and_mirrors_the_edge(down: int, right: int) -> None:
    image = face()
    rows, columns = (np.abs(np.arange(112) - offset) for offset in (down, right))
    rows, columns = (np.where(index > 111, 222 - index, index) for index in (rows, columns))
    np.testing.assert_array_equal(shifted(image, down, right), image[rows][:, columns])


@given(factor=st.floats(0.3, 3))
def test_light_is_a_factor_that_clips(factor: float) -> None:
    expected = np.clip(face().astype(np.float64) * factor, 0, 255)
    assert np.abs(brightened(face(), factor) - expected).max() <= 0.5 + 1e-3


def test_jpeg_keeps_colours_apart_and_loses_more_at_lower_quality() -> None:
    red = np.zeros((112, 112, 3), np.uint8)
    red[..., 0] = 200
    assert np.abs(recompressed(red, 90).astype(int) - red).max() < 12
    y, x = np.mgrid[:112, :112]
    smooth = np.stack([x, y, (x + y) // 2], axis=-1).astype(np.uint8)
    errors = [np.abs(recompressed(smooth, quality).astype(int) - smooth).mean() for quality in (95, 50, 10)]
    assert errors[0] < errors[1] < errors[2]


def test_jpeg_is_that_of_another_library() -> None:
    y, x = np.mgrid[:112, :112]
    image = np.stack([x * 2, y * 2, x + y], axis=-1).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=30)
    other = np.asarray(Image.open(file)).astype(int)
    assert np.abs(recompressed(image, 30).astype(int) - other).mean() < 1


@pytest.mark.parametrize("name", CAMERAS)
def test_a_camera_draws_within_its_ranges_and_repeats(name: str) -> None:
    image = face()
    one, again, other = (CAMERAS[name](image, stream(1, seed)) for seed in ("b", "b", "c"))
    np.testing.assert_array_equal(one, again)
    assert one.shape == image.shape and one.dtype == np.uint8
    assert (one != other).any() and (one != image).any()


def test_no_change_is_no_change() -> None:
    np.testing.assert_array_equal(Camera()(face(), np.random.default_rng(0)), face())


def test_shifts_reach_both_ends_of_the_range() -> None:
    image = np.zeros((112, 112, 3), np.uint8)
    image[50, 60] = 255
    rng = np.random.default_rng(0)
    places = [np.argwhere(Camera(1, (1, 1), 2, None)(image, rng)[..., 0])[0] - (50, 60) for _ in range(300)]
    assert {tuple(map(int, place)) for place in places} == {(i, j) for i in range(-2, 3) for j in range(-2, 3)}


def test_a_share_of_the_images_is_changed() -> None:
    rng, camera = np.random.default_rng(0), Camera(0.25, shift_px=28)
    changed = sum((camera(face(), rng) != face()).any() for _ in range(400))
    assert 70 <= changed <= 130


def test_training_samples_come_from_the_changed_image_and_repeat(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "face.png"), face())
    (tmp_path / "one.txt").write_text("face.png 0\n")
    index = read_index(tmp_path, tmp_path, "one")
    dark = Camera(1, (0.5, 0.5), 0, None)
    keys = [SampleKey(0, 0, draw, 0) for draw in range(3)]
    plain, changed, again = (
        TrainingSet([index], RandomObfuscation({"pixelate": 1.0}), 1, None, c) for c in (None, dark, dark)
    )
    for key in keys:
        assert torch.equal(changed[key].clear, again[key].clear)
        assert torch.equal(changed[key].obfuscated, again[key].obfuscated)
        assert abs(changed[key].clear.float().mean() * 2 - plain[key].clear.float().mean()) < 2
        assert changed[key].obfuscated.max() <= 128
