"""How much a recogniser's embedding depends on each value of its maps."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from torchkit.backbone import NUM_TAPS
from torchkit.server.recogniser import Recogniser

FLOOR = 0.03
"""Least sensitivity, as a share of the map's mean: no place is free of charge."""
SEED = 0


def map_sensitivities(recogniser: Recogniser, batches: Sequence[Tensor]) -> list[Tensor]:
    """Weights that turn a squared error of a map into a relative error of the embedding.

    An error d of a map m moves the embedding e by J d, and E ||J d||^2 is about sum F d^2 with the diagonal F of the
    Fisher information, E[(grad_m r e)^2] for a standard normal r. Around the nose it is a hundred times what it is at
    the borders.

    Args:
        recogniser: whose maps.
        batches: clear images, (B, 3, 112, 112) uint8 RGB each, that the expectation is taken over.

    Returns:
        (C_i, H_i, W_i) for each tap, scaled such that the mean map has the error 1: sum F var(m) = 1.
    """
    generator = torch.Generator().manual_seed(SEED)
    squares: list[Tensor] = []
    moments: list[Tensor] = []
    for images in batches:
        maps, gradients = _gradients(recogniser, images, generator)
        squares = _added(squares, [gradient.square().sum(0) for gradient in gradients])
        moments = _added(moments, [torch.stack([m.sum(0), m.square().sum(0)]) for m in maps])
    count = sum(len(images) for images in batches)
    return [_scaled(total, *(moment / count)) for total, moment in zip(squares, moments, strict=True)]


def _gradients(
    recogniser: Recogniser, images: Tensor, generator: torch.Generator
) -> tuple[list[Tensor], tuple[Tensor, ...]]:
    """The maps of images, and the gradients of a random projection of each unit embedding with respect to them."""
    backbone = recogniser.backbone
    with torch.enable_grad():
        x = recogniser.prepare(images).requires_grad_(True)
        maps = backbone.taps(x)
        embeddings = F.normalize(backbone.run_segment(NUM_TAPS, maps[-1]).float())
        directions = torch.randn(embeddings.shape, generator=generator).to(embeddings.device)
        gradients = torch.autograd.grad((embeddings * directions).sum(), maps)
    return [m.detach().float() for m in maps], gradients


def _added(totals: list[Tensor], parts: list[Tensor]) -> list[Tensor]:
    return [total + part for total, part in zip(totals, parts, strict=True)] if totals else parts


def _scaled(sensitivity: Tensor, mean: Tensor, mean_square: Tensor) -> Tensor:
    """With a floor, neighbours averaged, such that the sum over sensitivity * variance is 1; all (C, H, W)."""
    sensitivity = F.avg_pool2d(F.pad(sensitivity[None], (1, 1, 1, 1), mode="replicate"), 3, 1)[0]
    sensitivity = sensitivity + FLOOR * sensitivity.mean()
    return sensitivity / (sensitivity * (mean_square - mean.square()).clamp(min=0)).sum()
