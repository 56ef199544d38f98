"""Distillation terms: pull the compensated embedding to the frozen recogniser's embedding of the clear picture."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor


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


DISTILLATIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"cosine": cosine_distance, "mse": mean_squared_error}
