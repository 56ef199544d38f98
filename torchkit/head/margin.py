"""Heads with a fixed margin on the true class's cosine.

NormFace: Wang et al., ACM MM 2017 (arXiv 1704.06369). CosFace: Wang et al., CVPR 2018, eq. 4 (arXiv 1801.09414).
ArcFace: Deng et al., CVPR 2019, eq. 3 (arXiv 1801.07698).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from torchkit.head.base import Batch, MarginHead

PARTIAL_FC_RATE = 0.1


class FixedMargin(MarginHead):
    """A margin that is the same for each embedding."""

    def modulated(self, batch: Batch) -> Tensor:
        return batch.with_target(self.with_margin(batch.target))

    def with_margin(self, cosine: Tensor) -> Tensor:
        """cos theta of the true class -> the value that takes its place."""
        raise NotImplementedError


class NormFace(FixedMargin):
    """No margin: cos theta. The margin is not used."""

    def with_margin(self, cosine: Tensor) -> Tensor:
        return cosine


class CosFace(FixedMargin):
    """Additive cosine margin: cos theta - m, m a cosine."""

    def with_margin(self, cosine: Tensor) -> Tensor:
        return cosine - self.margin


class ArcFace(FixedMargin):
    """Additive angular margin: cos(theta + m), m in radians.

    Beyond theta = pi - m, where cos(theta + m) would rise again, the value is cos theta - m sin m, which keeps falling,
    as in the published implementation.
    """

    def with_margin(self, cosine: Tensor) -> Tensor:
        shifted = cosine * math.cos(self.margin) - sine(cosine) * math.sin(self.margin)
        return torch.where(cosine > -math.cos(self.margin), shifted, cosine - self.margin * math.sin(self.margin))


class PartialFC(CosFace):
    """CosFace on a tenth of the classes a step: An et al., CVPR 2022. Any head can, by a `sample_rate` below 1."""

    default_sample_rate = PARTIAL_FC_RATE


def sine(cosine: Tensor) -> Tensor:
    """sin theta for theta in 0..pi, with a finite gradient at both ends."""
    # The gradient of sqrt is infinite at 0: keep sin theta away from it by less than float32 resolves.
    return (1 - cosine.square()).clamp(min=1e-12).sqrt()
