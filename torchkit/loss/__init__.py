"""Loss terms beside the margin softmax."""

from torchkit.loss.distillation import DISTILLATIONS, cosine_distance, map_error, mean_squared_error

__all__ = ["DISTILLATIONS", "cosine_distance", "map_error", "mean_squared_error"]
