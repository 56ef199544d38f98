"""Losses: the softmax over a head's logits, and the distillation terms beside it."""

from torchkit.loss.ddl import distribution_distillation
from torchkit.loss.distillation import (
    DISTILLATIONS,
    cosine_distance,
    map_error,
    mean_squared_error,
    weighted_map_error,
)
from torchkit.loss.softmax import SoftmaxLoss, sharded_cross_entropy, softmax_loss

__all__ = [
    "DISTILLATIONS",
    "SoftmaxLoss",
    "cosine_distance",
    "distribution_distillation",
    "map_error",
    "mean_squared_error",
    "sharded_cross_entropy",
    "softmax_loss",
    "weighted_map_error",
]
