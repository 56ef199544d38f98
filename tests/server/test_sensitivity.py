"""Sensitivities of maps against a derivation image by image."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from torchkit.server import Recogniser
from torchkit.server.sensitivity import FLOOR, SEED, map_sensitivities


@pytest.fixture(scope="module")
def recogniser() -> Recogniser:
    torch.manual_seed(0)
    return Recogniser("mobilefacenet")


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    rng = np.random.default_rng(0)
    return torch.from_numpy(rng.integers(0, 256, (4, 3, 112, 112), dtype=np.uint8))


def test_sensitivities_are_mean_squared_gradients(recogniser: Recogniser, images: torch.Tensor) -> None:
    tap = 2  # the third: the map that conv_45 makes
    backbone = recogniser.backbone
    directions = torch.randn((len(images), 512), generator=torch.Generator().manual_seed(SEED))
    squares, maps = [], []
    for image, direction in zip(images, directions, strict=True):
        map_ = backbone.taps(recogniser.prepare(image[None]))[tap].detach().requires_grad_(True)
        embedding = F.normalize(backbone.run_segment(4, backbone.run_segment(3, map_)))[0]
        (gradient,) = torch.autograd.grad(embedding @ direction, map_)
        squares.append(gradient[0].double().numpy() ** 2)
        maps.append(map_.detach()[0].double().numpy())
    padded = np.pad(np.mean(squares, axis=0), ((0, 0), (1, 1), (1, 1)), mode="edge")
    smooth = np.mean([padded[:, y : y + 7, x : x + 7] for y in range(3) for x in range(3)], axis=0)
    floored = smooth + FLOOR * smooth.mean()
    expected = floored / (floored * np.var(maps, axis=0)).sum()
    found = map_sensitivities(recogniser, images.split(4))[tap]
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-3)


def test_the_mean_map_has_the_error_1(recogniser: Recogniser, images: torch.Tensor) -> None:
    maps = recogniser.backbone.taps(recogniser.prepare(images))
    for weights, map_ in zip(map_sensitivities(recogniser, images.split(2)), maps, strict=True):
        assert weights.shape == map_.shape[1:]
        error = ((map_ - map_.mean(0)).square() * weights).sum() / len(images)
        assert error.item() == pytest.approx(1, rel=1e-3)


def test_gradients_do_not_reach_the_recogniser(recogniser: Recogniser, images: torch.Tensor) -> None:
    weights = map_sensitivities(recogniser, images[:1].split(1))
    assert not any(weight.requires_grad for weight in weights)
    assert all(parameter.grad is None for parameter in recogniser.parameters())
