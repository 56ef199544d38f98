"""Measures of reconstructions, against their packages and formulas."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torchmetrics.functional.image import structural_similarity_index_measure

from torchkit.server import Recogniser
from validation.measure.excess import METRICS
from validation.measure.inversion import MOST_PSNR_DB, image_quality, load_measures, measure, save_measures
from validation.measure.reidentification import judged, make_gallery


def test_image_quality_against_another_package_and_the_formula() -> None:
    clear = torch.rand(3, 3, 112, 112).round(decimals=1)
    reconstructed = (clear + 0.1 * torch.randn_like(clear)).clamp(0, 1)
    found = image_quality(reconstructed, clear)
    for place in range(3):
        pair = reconstructed[place : place + 1], clear[place : place + 1]
        # that package pads the borders: a common interior is compared
        expected = structural_similarity_index_measure(*pair, data_range=1.0, gaussian_kernel=True, sigma=1.5)
        assert found["ssim"][place] == pytest.approx(float(expected), abs=0.01)
        squared = (pair[0] - pair[1]).square().mean()
        assert found["psnr"][place] == pytest.approx(float(-10 * torch.log10(squared)), abs=1e-3)


def test_exact_images() -> None:
    clear = torch.rand(1, 3, 112, 112)
    found = image_quality(clear, clear)
    assert (found["ssim"][0], found["psnr"][0]) == pytest.approx((1.0, MOST_PSNR_DB))


def test_measures_are_whole_and_survive_their_file(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    people = np.repeat(np.arange(14), 8)
    images = rng.integers(0, 256, (112, 3, 112, 112), np.uint8)
    judge = Recogniser("mobilefacenet")
    gallery = make_gallery(judged(judge, torch.from_numpy(images)), people)
    found = measure(torch.from_numpy(images), images, judge, gallery)
    assert tuple(found) == METRICS
    assert all(values.shape == (112,) for values in found.values())
    assert found["ssim"] == pytest.approx(1)
    assert found["cosine"] == pytest.approx(1)
    save_measures(tmp_path / "measures.npz", found, torch.from_numpy(images))
    again, reconstructed = load_measures(tmp_path / "measures.npz")
    assert np.array_equal(reconstructed, images)
    assert all(np.array_equal(again[name], found[name]) for name in METRICS)


def test_without_a_judge_images_are_compared_alone() -> None:
    images = torch.randint(0, 256, (60, 3, 112, 112), dtype=torch.uint8)
    found = measure(images, images.numpy(), None, None)
    assert {name: values.shape for name, values in found.items()} == {"ssim": (60,), "psnr": (60,)}
