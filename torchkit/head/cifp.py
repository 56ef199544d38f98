"""CIFP: Xu et al., Consistent Instance False Positive Improves Fairness in Face Recognition, CVPR 2021."""

from __future__ import annotations

import torch
from torch import Tensor

from torchkit.head.base import Batch, MarginHead
from torchkit.util.distributed import gather, reduce_sum


class CIFP(MarginHead):
    """CosFace with a penalty for embeddings that cause false positives, as in TFace (arXiv 2106.05519).

    A false positive of an embedding is another class whose cosine is above a threshold common to all, but not above
    that of the true class. The threshold lets through 1 / (classes - 1) of all such cosines of the batch: about one an
    embedding on average. With p the mean square of an embedding's false positives (0 if it has none), the true
    class's value is cos theta - m - (1 + cos theta) p, m a cosine.

    The centres get no gradient through 1 + cos theta, nor from a false positive at or above cos theta - m: there the
    embedding moves, but not the centre.
    """

    def modulated(self, batch: Batch) -> Tensor:
        penalty = self._penalty(batch, self.target_everywhere(batch))
        own = (batch.units * batch.centres.detach()[batch.index[:, 0]]).sum(dim=1, keepdim=True)
        return batch.with_target(batch.target - self.margin - (1 + own) * penalty)

    def _penalty(self, batch: Batch, target: Tensor) -> Tensor:
        """(B, 1) p of each embedding, on every shard; target: (B, 1) cos theta of the true class."""
        candidates = self._candidates(batch, target)
        row, column = (candidates > self._threshold(candidates)).nonzero(as_tuple=True)
        centres = batch.centres[column]
        easy = candidates[row, column] < target[row, 0] - self.margin
        cosines = (batch.units[row] * torch.where(easy[:, None], centres, centres.detach())).sum(dim=1)
        zeros = torch.zeros_like(batch.lengths)
        squares = zeros.index_add(0, row, cosines.square())
        counts = zeros.index_add(0, row, torch.ones_like(cosines))
        if self.shard.count > 1:
            # Only the true class's shard uses the sum: its gradient must reach the parts of the other shards.
            squares, counts = gather(squares[None]).sum(dim=0), reduce_sum(counts)
        return (squares / counts.clamp(min=1))[:, None]

    @torch.no_grad()
    def _candidates(self, batch: Batch, target: Tensor) -> Tensor:
        """(B, C) cosines of the other classes that are not above the true one's, -inf in place of the rest."""
        others = batch.with_target(torch.full_like(target, -torch.inf))
        return others.masked_fill(others > target, -torch.inf)

    @torch.no_grad()
    def _threshold(self, candidates: Tensor) -> Tensor:
        """() the cosine that 1 / (classes - 1) of the whole batch's candidates reach; inf if there are none."""
        many = reduce_sum(candidates.isfinite().sum())
        classes = torch.tensor(candidates.shape[1], device=candidates.device)
        if self.shard.count > 1:
            classes = reduce_sum(classes)
        rank = -(-int(many) // max(1, int(classes) - 1))
        if rank == 0:
            return candidates.new_tensor(torch.inf)
        largest = gather(candidates.flatten().topk(min(rank, candidates.numel())).values)
        return largest.topk(rank).values[-1]
