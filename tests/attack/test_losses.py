"""The losses of attackers."""

from __future__ import annotations

import pytest
import torch
from pytorch_msssim import ssim

from torchkit.attack.losses import ReconstructionLoss
from torchkit.server import Recogniser


def test_sum_of_its_parts_against_the_formula() -> None:
    torch.manual_seed(0)
    recogniser = Recogniser("mobilefacenet")
    reconstructed, clear = torch.rand(2, 3, 112, 112), torch.rand(2, 3, 112, 112)
    losses = ReconstructionLoss(0.5, 2.0, recogniser)(reconstructed, clear)
    pixels = [(images * 255).round() / 255 for images in (reconstructed, clear)]
    maps = [recogniser.backbone.taps(images.flip(1) * 2 - 1)[0] for images in pixels]
    relative = (maps[0] - maps[1]).square().mean() / maps[1].square().mean()
    absolute = (reconstructed - clear).abs().mean()
    structure = 1 - ssim(reconstructed, clear, data_range=1.0)
    assert torch.allclose(losses["l1"], absolute)
    assert torch.allclose(losses["ssim_loss"], structure)
    assert torch.allclose(losses["perceptual"], relative, rtol=0.02)
    assert torch.allclose(losses["loss"], absolute + 0.5 * structure + 2 * losses["perceptual"])


def test_nothing_to_lose_where_the_image_is_right() -> None:
    clear = torch.rand(1, 3, 112, 112)
    assert ReconstructionLoss(0.5)(clear, clear)["loss"].item() == pytest.approx(0, abs=1e-5)


def test_maps_need_a_recogniser() -> None:
    with pytest.raises(ValueError, match="without a recogniser"):
        ReconstructionLoss(0.5, 1.0)
