"""CurricularFace: Huang et al., CVPR 2020 (arXiv 2004.00288)."""

from __future__ import annotations

import torch
from torch import Tensor

from torchkit.head.base import Batch
from torchkit.head.margin import ArcFace
from torchkit.head.shard import WHOLE, Shard


class CurricularFace(ArcFace):
    """ArcFace that weights hard negatives more and more as training advances.

    A class j that is not the true one and whose cos theta_j is above T, the true class's value with its margin (m in
    radians), is hard: it counts as cos theta_j (t + cos theta_j). t is the running mean of the true classes' cosines,
    which training updates before it uses it; easy classes keep their cosine.

    Args:
        momentum: share of t that is kept in a step.
    """

    t: Tensor

    def __init__(
        self,
        embedding_size: int,
        num_classes: int,
        scale: float,
        margin: float,
        shard: Shard = WHOLE,
        sample_rate: float | None = None,
        momentum: float = 0.99,
    ) -> None:
        super().__init__(embedding_size, num_classes, scale, margin, shard, sample_rate)
        self.momentum = momentum
        self.register_buffer("t", torch.zeros(()))

    def modulated(self, batch: Batch) -> Tensor:
        target = self.target_everywhere(batch)
        if self.training:
            self.t.lerp_(self.of_all_processes(target).mean(), 1 - self.momentum)
        hard = batch.cosines > self.with_margin(target)
        cosines = torch.where(hard, batch.cosines * (self.t + batch.cosines), batch.cosines)
        return batch.with_target(self.with_margin(batch.target), cosines)
