"""Pruning of features: whole channels, chosen during training and never sent again, and small values.

A channel's importance is the first-order change of an image's loss without it, |sum a * dL/da| (Molchanov et al.,
CVPR 2019, arXiv 1906.10771), averaged over images. The pruned share grows from 0 to its final value along a cubic
(Zhu and Gupta, 2017, arXiv 1710.01878): fast at first, slow at the end.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from torchkit.util.distributed import gather, rank, reduce_sum, world_size

MEMORY = 0.95
"""Of the running means: the weight of what was before."""
SAMPLE = 1 << 16
"""Values among which a batch's threshold is looked for."""


def check_shares(shares: tuple[float, ...]) -> tuple[float, ...]:
    """The share of each tap that is pruned, if it is one.

    Raises:
        ValueError: a number below 0 or above 1.
    """
    if not all(0 <= share <= 1 for share in shares):
        raise ValueError(f"{list(shares)}: expected shares from 0 (all is sent) to 1 (nothing is)")
    return shares


class Pruner(nn.Module):
    """Prunes the features of one tap.

    Args:
        channels: channels of the map.
        channel_share: of the channels, to be pruned in the end.
        value_share: of the values of kept channels, to be zero in the end: those smallest in magnitude.

    Shape: (B, C, h, w) -> the same, with zeros. A small value keeps its gradient, so that it may grow again.
    """

    keep: Tensor
    importance: Tensor
    threshold: Tensor

    def __init__(self, channels: int, channel_share: float, value_share: float) -> None:
        super().__init__()
        self.channel_share, self.value_share = channel_share, value_share
        self.ramp = 0.0
        self.register_buffer("keep", torch.ones(channels, dtype=torch.bool))
        self.register_buffer("importance", torch.zeros(channels))
        self.register_buffer("threshold", torch.zeros(()))

    @property
    def is_closed(self) -> bool:
        """Whether no channel is sent any more."""
        return not self.keep.any()

    def set_progress(self, progress: float) -> None:
        """Prune as far as the ramp goes at `progress` (0 before its start, 1 from its end on)."""
        self.ramp = 1 - (1 - progress) ** 3
        surplus = int(self.keep.sum()) - kept_channels(len(self.keep), self.channel_share * self.ramp)
        if surplus > 0:
            ranked = self.importance.masked_fill(~self.keep, torch.inf).argsort()
            self.keep[ranked[:surplus]] = False

    def forward(self, x: Tensor) -> Tensor:
        mask = self.keep.view(1, -1, 1, 1).to(x.dtype)
        if self.training and torch.is_grad_enabled():
            mask = self._observed(mask.expand(len(x), -1, 1, 1))
        x = x * mask
        return self._without_small(x) if self.value_share else x

    def _observed(self, mask: Tensor) -> Tensor:
        """The mask (B, C, 1, 1), whose gradient is the sum over places of a * dL/da, for each image and channel."""
        mask = mask.contiguous().requires_grad_()
        mask.register_hook(self._note_importance)
        return mask

    @torch.no_grad()
    def _note_importance(self, gradient: Tensor) -> None:
        # Each process's gradients are as many times too large as there are processes, until they are averaged.
        change = reduce_sum(gradient.flatten(1).abs().float().mean(0)) / world_size() ** 2
        self.importance.mul_(MEMORY).add_(change, alpha=1 - MEMORY)

    def _without_small(self, x: Tensor) -> Tensor:
        if self.training and self.ramp:
            self._follow_threshold(x.detach())
        return x - (x * (x.abs() < self.threshold)).detach()

    def calibrate(self, x: Tensor) -> Tensor:
        """Set the threshold by these features (B, C, h, w) alone, without training; returns them pruned."""
        self.ramp = 1.0
        self.threshold.zero_()
        self._follow_threshold(x)
        return self(x)

    @torch.no_grad()
    def _follow_threshold(self, x: Tensor) -> None:
        """Move the threshold towards the quantile of this batch's magnitudes, the first time all the way."""
        values = x[:, self.keep].abs().flatten(1).float()
        if not values.numel():
            return
        found = torch.quantile(gather(_sampled(values)), self.value_share * self.ramp)
        self.threshold.lerp_(found, 1 - MEMORY if self.threshold > 0 else 1.0)


def _sampled(values: Tensor) -> Tensor:
    """This process's part of every n-th value (B, V) of all processes' images, whose order is the sampler's."""
    processes, size = world_size(), values.shape[1]
    step = max(1, values.numel() * processes // SAMPLE)
    if processes == 1:
        return values.flatten()[::step]
    firsts = range(rank() * size, len(values) * processes * size, processes * size)  # each image's, among all values
    return torch.cat([row[-first % step :: step] for row, first in zip(values, firsts, strict=True)])


def kept_channels(channels: int, pruned_share: float) -> int:
    """How many channels are sent when `pruned_share` of them is pruned."""
    return round(channels * (1 - pruned_share))
