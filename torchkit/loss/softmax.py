"""Softmax cross-entropy of a head's logits, whole or sharded over processes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from torchkit.util.distributed import reduce_max, reduce_sum

LossName = Literal["DistCrossEntropy", "CrossEntropy"]
SoftmaxLoss = Callable[[Tensor, Tensor], Tensor]
"""Logits (B, C) and the column of the true class (B,), -1 where another process holds it -> mean over B, ()."""


def sharded_cross_entropy(logits: Tensor, columns: Tensor) -> Tensor:
    """Compute the cross-entropy over the classes of all processes, each of which passes the logits of its own classes.

    log sum_j exp(z_j) - z_y, with maximum and sum taken over all processes. Every process returns the same loss, and
    its logits get their gradient in the softmax over all classes (torchkit.util.distributed says what counts once).

    Shape: logits (B, C) of the whole batch for the C classes here, columns (B,) -> ().
    """
    largest = reduce_max(logits.amax(dim=1, keepdim=True))  # (B, 1), without gradient: it cancels out
    total = reduce_sum((logits - largest).exp().sum(dim=1))
    target = logits.gather(1, columns.clamp(min=0)[:, None]) - largest
    return (total.log() - reduce_sum(torch.where(columns >= 0, target[:, 0], 0))).mean()


def softmax_loss(name: LossName, shards: int) -> SoftmaxLoss:
    """Return the loss LOSS_NAME for heads in `shards` shards; with one shard, no process needs another.

    Raises:
        ValueError: CrossEntropy for a sharded head.
    """
    if shards == 1:
        return F.cross_entropy
    if name == "CrossEntropy":
        raise ValueError(
            f"LOSS_NAME = CrossEntropy with the classes shared among {shards} processes (DIST_FC): it sees one part of "
            "them; take DistCrossEntropy, or set DIST_FC: false"
        )
    return sharded_cross_entropy
