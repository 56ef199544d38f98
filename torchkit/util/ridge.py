"""Ridge regression in closed form: the best penalised linear map from features to embeddings.

    W = argmin |X W - Y|^2 + alpha |W|^2  =  (X'X + alpha I)^-1 X'Y  =  X'(XX' + alpha I)^-1 Y        X, Y centred

The last form solves a system of as many equations as there are faces, however many features they have.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

RELATIVE_PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""Candidate penalties, as multiples of the faces' mean squared distance from their mean."""
HELD_OUT = 5
"""One in this many faces is held out to choose the penalty."""


@dataclass(frozen=True, eq=False)
class LinearMap:
    """Features (B, d) -> embeddings (B, D), not normalised."""

    weight: Tensor
    """(d, D)."""
    bias: Tensor
    """(D,)."""

    def __call__(self, features: Tensor) -> Tensor:
        return features @ self.weight + self.bias

    def to(self, device: torch.device) -> LinearMap:
        return LinearMap(self.weight.to(device), self.bias.to(device))


def fit_ridge(features: Tensor, embeddings: Tensor, penalty: float) -> LinearMap:
    """Fit the map with the least squared error plus penalty.

    Args:
        features: (n, d).
        embeddings: (n, D).
        penalty: alpha, above 0.
    """
    mean, mean_embedding = features.mean(dim=0), embeddings.mean(dim=0)
    centred, targets = features - mean, (embeddings - mean_embedding).double()
    faces, size = centred.shape
    if size <= faces:
        solved = _solve((centred.T @ centred).double(), centred.T.double() @ targets, penalty)
        weight = solved.to(features.dtype)
    else:
        weight = centred.T @ _solve((centred @ centred.T).double(), targets, penalty).to(features.dtype)
    return LinearMap(weight, mean_embedding - mean @ weight)


def _solve(gram: Tensor, right: Tensor, penalty: float) -> Tensor:
    """(gram + penalty I)^-1 right."""
    gram.diagonal().add_(penalty)
    return torch.cholesky_solve(right, torch.linalg.cholesky(gram))


def fit_best_ridge(features: Tensor, embeddings: Tensor) -> LinearMap:
    """Fit the map with the penalty that is best on held-out faces, then on all faces.

    The last fifth of the faces is held out; where a training set lists its people one after the other, these are
    other people, as in validation.

    Args:
        features: (n, d).
        embeddings: (n, D), unit length.

    Raises:
        ValueError: fewer than 10 faces.
    """
    if len(features) < 2 * HELD_OUT:
        raise ValueError(f"{len(features)} training faces to fit a linear map on: expected at least {2 * HELD_OUT}")
    spread = (features - features.mean(dim=0)).square().sum(dim=1).mean().item()
    penalties = [relative * spread + 1e-12 for relative in RELATIVE_PENALTIES]  # above 0 for features that are all 0
    fitted = len(features) - len(features) // HELD_OUT

    def agreement(penalty: float) -> float:
        mapped = fit_ridge(features[:fitted], embeddings[:fitted], penalty)(features[fitted:])
        return F.cosine_similarity(mapped, embeddings[fitted:]).mean().item()

    return fit_ridge(features, embeddings, max(penalties, key=agreement))
