"""Folded networks give the embeddings of the plain ones, and fewer batch norms."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from torchkit.backbone import get_model
from torchkit.server.fold import fold_batch_norms


def count_norms(network: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())


@pytest.mark.parametrize(("name", "left"), [("ir_18", 9), ("ir_se_50", 25), ("mobilefacenet", 0)])
@torch.no_grad()
def test_folding_keeps_taps_and_embeddings(name: str, left: int) -> None:
    """Left are the norms in front of a padded convolution (one an IR unit) and of the output layer."""
    plain = get_model(name).eval()
    for module in plain.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.3, 0.3)
            module.running_var.uniform_(0.5, 1.5)
            module.weight.uniform_(0.5, 1.5)
            module.bias.uniform_(-0.3, 0.3)
    folded = copy.deepcopy(plain)
    fold_batch_norms(folded)
    assert count_norms(folded) == left
    images = torch.rand(2, 3, 112, 112) * 2 - 1
    for expected, found in zip(
        [*plain.taps(images), plain(images)], [*folded.taps(images), folded(images)], strict=True
    ):
        assert (found - expected).abs().max() < 1e-5 * expected.abs().max()
