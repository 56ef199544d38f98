"""The base of margin heads: a learned centre for each identity, and cosines to the centres that a process holds."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchkit.head.sampling import ClassSampler
from torchkit.head.shard import WHOLE, Shard
from torchkit.util.distributed import gather, reduce_sum

INIT_STD = 0.01
INIT_ROWS = 65_536  # drawn at a time: a shard never holds the weights of all classes


@dataclass(frozen=True)
class Batch:
    """Embeddings and the C class centres of this process that take part in the step."""

    lengths: Tensor
    """(B,) norms of the embeddings before they were normalised."""
    units: Tensor
    """(B, D) embeddings, length 1."""
    centres: Tensor
    """(C, D) class centres, length 1."""
    cosines: Tensor
    """(B, C) cos theta, within [-1, 1]."""
    columns: Tensor
    """(B,) column of the true class, -1 where another process holds it."""

    @property
    def here(self) -> Tensor:
        """(B, 1) bool: whether the true class is among the columns."""
        return self.columns[:, None] >= 0

    @property
    def index(self) -> Tensor:
        """(B, 1) column of the true class, 0 where it is elsewhere."""
        return self.columns.clamp(min=0)[:, None]

    @property
    def target(self) -> Tensor:
        """(B, 1) cos theta of the true class; only where `here` does it mean anything."""
        return self.cosines.gather(1, self.index)

    def with_target(self, target: Tensor, cosines: Tensor | None = None) -> Tensor:
        """(B, C) cosines, or those given instead, with `target` (B, 1) in place of the true class's."""
        cosines = self.cosines if cosines is None else cosines
        return cosines.scatter(1, self.index, torch.where(self.here, target, cosines.gather(1, self.index)))


class MarginHead(nn.Module):
    """Logits s * f(cos theta) of an embedding to each identity, with a margin on the true one.

    A sharded head holds the rows of its shard's classes and gives their logits; all processes call it with the same
    embeddings and labels, those of the whole batch. Seeded alike, shards start with the rows of the whole head.

    Args:
        embedding_size: D.
        num_classes: identities in the training set.
        scale: s.
        margin: m, in the unit of the subclass.
        shard: which classes this process holds.
        sample_rate: share of the classes that takes part in a training step, 0..1, below 1 see `ClassSampler`; None:
            the head's own, which is 1 but for PartialFC.

    Shape: embeddings (B, D) of any length, labels (B,) in 0..num_classes-1 -> logits (B, C), float32. C is the number
    of classes of the shard, or of those of them that were drawn; `columns` says where the true class stands.
    """

    default_sample_rate = 1.0

    def __init__(
        self,
        embedding_size: int,
        num_classes: int,
        scale: float,
        margin: float,
        shard: Shard = WHOLE,
        sample_rate: float | None = None,
    ) -> None:
        super().__init__()
        if sample_rate is None:
            sample_rate = self.default_sample_rate
        self.num_classes, self.scale, self.margin, self.shard = num_classes, scale, margin, shard
        self.rows = shard.rows(num_classes)
        self.weight = nn.Parameter(_normal_rows(num_classes, embedding_size, self.rows))
        self.sampler = ClassSampler(num_classes, self.rows, sample_rate) if sample_rate != 1 else None

    def columns(self, labels: Tensor) -> Tensor:
        """Where the true class (B,) stands among the columns of `forward`'s logits for these labels; -1: elsewhere."""
        if self.sampler is not None and self.training:
            return self.sampler.columns(labels)
        local = labels - self.rows.start
        return torch.where((local >= 0) & (local < len(self.rows)), local, -1)

    def cosines(self, embeddings: Tensor) -> Tensor:
        """(B, D) -> cos theta to the centre of each class here, (B, C), within [-1, 1]; always float32."""
        with torch.autocast(embeddings.device.type, enabled=False):
            return _cosines(F.normalize(embeddings.float()), F.normalize(self.weight.float()))

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        with torch.autocast(embeddings.device.type, enabled=False):
            return self.scale * self.modulated(self._batch(embeddings.float(), labels))

    def modulated(self, batch: Batch) -> Tensor:
        """(B, C) what takes the cosines' place."""
        raise NotImplementedError

    def target_everywhere(self, batch: Batch) -> Tensor:
        """(B, 1) cos theta of the true class, known to each shard; it carries no gradient."""
        target = torch.where(batch.here, batch.target, 0).detach()
        return reduce_sum(target) if self.shard.count > 1 else target

    def of_all_processes(self, values: Tensor) -> Tensor:
        """Values (B, ...) of the whole batch; a whole head gets but its own process's part of it."""
        return values if self.shard.count > 1 else gather(values)

    def own_rows(self, rows: Tensor) -> Tensor:
        """This shard's part of (num_classes, ...), one row a class."""
        return rows[self.rows.start : self.rows.stop]

    def all_rows(self, rows: Tensor) -> Tensor:
        """(num_classes, ...) from each shard's rows, on every process; all of them must call it."""
        return gather(rows) if self.shard.count > 1 else rows

    def _batch(self, embeddings: Tensor, labels: Tensor) -> Batch:
        columns = self.columns(labels)
        weight = self.weight.float()
        if self.sampler is not None and self.training:
            weight = weight[self.sampler.draw(labels)]
        units, centres = F.normalize(embeddings), F.normalize(weight)
        return Batch(embeddings.norm(dim=1), units, centres, _cosines(units, centres), columns)


class NoHead(nn.Module):
    """Stands for the head of a branch whose loss has weight 0: nothing is built, trained or kept."""


def _cosines(units: Tensor, centres: Tensor) -> Tensor:
    return F.linear(units, centres).clamp(-1, 1)


def _normal_rows(num_classes: int, size: int, rows: range) -> Tensor:
    """The `rows` of a (num_classes, size) matrix of normal numbers, the same numbers whoever asks for which."""
    result = torch.empty(len(rows), size)
    for first in range(0, num_classes, INIT_ROWS):
        block = torch.empty(min(INIT_ROWS, num_classes - first), size).normal_(std=INIT_STD)
        start, stop = max(rows.start, first), min(rows.stop, first + len(block))
        if start < stop:
            result[start - rows.start : stop - rows.start] = block[start - first : stop - first]
    return result
