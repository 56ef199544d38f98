"""Distillation terms: pull the compensated embedding to the frozen recogniser's embedding of the clear image."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from torchkit.util.distributed import reduce_sum, world_size


def cosine_distance(embeddings: Tensor, targets: Tensor) -> Tensor:
    """Mean of 1 - cos over the batch, 0..2.

    Shape: (B, D) unit length twice -> ().
    """
    return (1 - (embeddings * targets).sum(dim=1)).mean()


def mean_squared_error(embeddings: Tensor, targets: Tensor) -> Tensor:
    """The published term: squared difference averaged over batch and dimensions; 2 (1 - cos) / D for unit vectors.

    Shape: (B, D) unit length twice -> ().
    """
    return F.mse_loss(embeddings, targets)


def map_error(maps: Sequence[Tensor], targets: Sequence[Tensor]) -> Tensor:
    """Relative squared error of the server's maps against those of the clear image, averaged over the taps.

    mean_i  ||m_i - t_i||^2 / ||t_i - mean(t_i)||^2 : 0 is exact, 1 is as bad as a constant. An embedding is one vector
    an image; a map constrains the client at every position, so that few images teach it much. The variance is that of
    all processes' targets, so that the mean over the processes is the error of the whole batch.

    Shape: (B, C_i, H_i, W_i) a tap, twice -> ().
    """
    errors = [F.mse_loss(m.float(), t.float()) / _variance(t.float()) for m, t in zip(maps, targets, strict=True)]
    return torch.stack(errors).mean()


def weighted_map_error(maps: Sequence[Tensor], targets: Sequence[Tensor], weights: Sequence[Tensor]) -> Tensor:
    """Squared error of the server's maps, each value by its weight, summed over a map and averaged over the taps.

    With the weights of `map_sensitivities`, 0 is exact, and 1 changes the embedding as much as the mean map does.

    Shape: (B, C_i, H_i, W_i) a tap, twice, and (C_i, H_i, W_i) a tap -> ().
    """
    errors = [
        ((m.float() - t.float()).square() * weight).sum() / len(m)
        for m, t, weight in zip(maps, targets, weights, strict=True)
    ]
    return torch.stack(errors).mean()


def _variance(values: Tensor) -> Tensor:
    """Return the unbiased variance () of all processes' values; each process holds the same number of them."""
    processes = world_size()
    if processes == 1:
        return values.var()
    mean = reduce_sum(values.mean()) / processes
    count = values.numel() * processes
    return reduce_sum((values - mean).square().sum()) / (count - 1)


DISTILLATIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"cosine": cosine_distance, "mse": mean_squared_error}
