"""A sample of the classes for each step: An et al., Killing Two Birds with One Stone (Partial FC), CVPR 2022."""

from __future__ import annotations

import torch
from torch import Tensor, nn

SEEDS = 2**62
POSITIVE = 2.0  # above every random score


class ClassSampler(nn.Module):
    """Draw the classes that take part in a training step: those of the batch, and others up to a share of all classes.

    Each process draws for all classes and keeps its own, so that the sample does not depend on the number of
    processes. Its seed is a buffer, so that a resumed run draws the same samples as an uninterrupted one.

    Args:
        num_classes: identities in the training set.
        rows: those that this process holds.
        rate: share of all classes, above 0, below 1.
    """

    seed: Tensor

    def __init__(self, num_classes: int, rows: range, rate: float) -> None:
        super().__init__()
        if not 0 < rate < 1:
            raise ValueError(f"sample rate {rate}: expected a share of the classes, above 0 and at most 1")
        self.num_classes, self.rows, self.rate = num_classes, rows, rate
        self.register_buffer("seed", torch.randint(SEEDS, ()))

    def columns(self, labels: Tensor) -> Tensor:
        """Column of the true class among those that `draw` gives for these labels; -1: another process holds it."""
        local, here = self._local(labels)
        return torch.where(here, torch.searchsorted(local[here].unique(), local), -1)

    @torch.no_grad()
    def draw(self, labels: Tensor) -> Tensor:
        """Draw the next sample, as indices into this process's rows: first the classes among `labels`, in order.

        A process that has none of its classes in the sample takes its first one.
        """
        generator = torch.Generator().manual_seed(int(self.seed))
        self.seed += 1
        scores = torch.rand(self.num_classes, generator=generator)
        positives = labels.unique().cpu()
        scores[positives] = POSITIVE
        sample = scores.topk(max(len(positives), round(self.rate * self.num_classes))).indices
        others = sample[(scores[sample] < POSITIVE) & (sample >= self.rows.start) & (sample < self.rows.stop)]
        local, here = self._local(labels)
        rows = torch.cat([local[here].unique(), others.sort().values.to(labels.device) - self.rows.start])
        return rows if len(rows) else rows.new_zeros(1)

    def _local(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        local = labels - self.rows.start
        return local, (local >= 0) & (local < len(self.rows))
