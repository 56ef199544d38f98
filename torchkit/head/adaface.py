"""AdaFace: Kim et al., CVPR 2022 (arXiv 2204.00964)."""

from __future__ import annotations

import torch
from torch import Tensor

from torchkit.head.base import Batch, MarginHead
from torchkit.head.margin import sine
from torchkit.head.shard import WHOLE, Shard

MIN_LENGTH, MAX_LENGTH = 1e-3, 100.0
EPSILON = 1e-3
FIRST_MEAN, FIRST_STD = 20.0, 100.0  # of the published implementation


class AdaFace(MarginHead):
    """A margin that adapts to the image's quality, which is estimated from the norm of its embedding.

    With q = clip((length - mean) / std * h, -1, 1), the true class's value is cos(theta - m q) - m (1 + q): an angular
    margin m for poor images (q = -1), a cosine margin m for average ones, and for good ones (q = 1) margins that
    emphasise hard images. theta - m q is kept within 0..pi. Mean and standard deviation of the norms are running
    statistics, which training updates before it uses them. No gradient passes through q.

    The embeddings must not be normalised: at length 1 the quality is the same for all.

    Args:
        h: change of q for one standard deviation of the norm.
        momentum: share of the running statistics that is kept in a step.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        embedding_size: int,
        num_classes: int,
        scale: float,
        margin: float,
        shard: Shard = WHOLE,
        sample_rate: float | None = None,
        h: float = 0.333,
        momentum: float = 0.99,
    ) -> None:
        super().__init__(embedding_size, num_classes, scale, margin, shard, sample_rate)
        self.h, self.momentum = h, momentum
        self.register_buffer("mean", torch.tensor(FIRST_MEAN))
        self.register_buffer("std", torch.tensor(FIRST_STD))

    def modulated(self, batch: Batch) -> Tensor:
        quality = self._quality(batch.lengths.detach().clamp(MIN_LENGTH, MAX_LENGTH))[:, None]
        return batch.with_target(self.with_margin(batch.target, quality))

    def with_margin(self, cosine: Tensor, quality: Tensor) -> Tensor:
        """Apply the margin: cos theta (B, 1) of the true class and q (B, 1) -> its replacement (B, 1)."""
        angle = -self.margin * quality
        shifted = cosine * angle.cos() - sine(cosine) * angle.sin()
        shifted = torch.where((angle < 0) & (cosine > angle.cos()), 1.0, shifted)  # theta below -angle
        shifted = torch.where((angle > 0) & (cosine < -angle.cos()), -1.0, shifted)  # theta above pi - angle
        return shifted - self.margin * (1 + quality)

    def _quality(self, lengths: Tensor) -> Tensor:
        if self.training:
            self._follow(self.of_all_processes(lengths))
        return ((lengths - self.mean) / (self.std + EPSILON) * self.h).clamp(-1, 1)

    def _follow(self, lengths: Tensor) -> None:
        if len(lengths) > 1:  # one has no standard deviation
            self.mean.lerp_(lengths.mean(), 1 - self.momentum)
            self.std.lerp_(lengths.std(), 1 - self.momentum)
