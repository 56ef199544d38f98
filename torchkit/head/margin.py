"""Margin heads: logits s * f(cos theta) of an embedding against a learned centre for each identity.

ArcFace: Deng et al., CVPR 2019, eq. 3 (arXiv 1801.07698). CosFace: Wang et al., CVPR 2018, eq. 4 (arXiv 1801.09414).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class MarginHead(nn.Module):
    """Cosine logits with a margin on the true class.

    Args:
        embedding_size: D.
        num_classes: identities in the training set.
        scale: s.
        margin: m, in the unit of the subclass.

    Shape: embeddings (B, D), labels (B,) -> logits (B, num_classes).
    """

    def __init__(self, embedding_size: int, num_classes: int, scale: float, margin: float) -> None:
        super().__init__()
        self.scale, self.margin = scale, margin
        self.weight = nn.Parameter(torch.empty(num_classes, embedding_size))
        nn.init.normal_(self.weight, std=0.01)

    def cosines(self, embeddings: Tensor) -> Tensor:
        """(B, D) -> cos theta to each class centre, (B, num_classes), within [-1, 1]; always float32."""
        with torch.autocast(embeddings.device.type, enabled=False):
            return F.linear(F.normalize(embeddings.float()), F.normalize(self.weight.float())).clamp(-1, 1)

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        cosines = self.cosines(embeddings)
        target = cosines.gather(1, labels[:, None])
        return self.scale * cosines.scatter(1, labels[:, None], self.with_margin(target))

    def with_margin(self, cosine: Tensor) -> Tensor:
        """cos theta of the true class -> the value that takes its place."""
        raise NotImplementedError


class ArcFace(MarginHead):
    """Additive angular margin: cos(theta + m), m in radians.

    Beyond theta = pi - m, where cos(theta + m) would rise again, it goes on falling as cos theta - m sin m, as in
    the published implementation.
    """

    def with_margin(self, cosine: Tensor) -> Tensor:
        # The gradient of sqrt is infinite at 0: keep sin theta off it by less than float32 can tell.
        sine = (1 - cosine.square()).clamp(min=1e-12).sqrt()
        shifted = cosine * math.cos(self.margin) - sine * math.sin(self.margin)
        return torch.where(cosine > -math.cos(self.margin), shifted, cosine - self.margin * math.sin(self.margin))


class CosFace(MarginHead):
    """Additive cosine margin: cos theta - m, m a cosine."""

    def with_margin(self, cosine: Tensor) -> Tensor:
        return cosine - self.margin
