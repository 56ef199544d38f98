"""Distillation terms: pull the compensated embedding to the frozen recogniser's embedding of the clear picture."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
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


def map_error(maps: Sequence[Tensor], targets: Sequence[Tensor]) -> Tensor:
    """Relative squared error of the server's maps against those of the clear picture, averaged over the taps.

    mean_i  ||m_i - t_i||^2 / ||t_i - mean(t_i)||^2 : 0 is exact, 1 as bad as a constant. An embedding constrains a
    map by one vector a picture; a map constrains the client at every place, so that few pictures teach it much.

    Shape: (B, C_i, H_i, W_i) a tap, twice -> ().
    """
    errors = [F.mse_loss(m.float(), t.float()) / t.float().var() for m, t in zip(maps, targets, strict=True)]
    return torch.stack(errors).mean()


DISTILLATIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"cosine": cosine_distance, "mse": mean_squared_error}
