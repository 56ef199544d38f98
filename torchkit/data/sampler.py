"""Choose the samples of a batch by seed, epoch and step, so that a run can resume at any step.

Where several processes train together, each takes its part of the batch that one process would take.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from torch.utils.data import Sampler

from torchkit.data.training_set import SampleKey
from torchkit.util.seeding import stream


class BranchBatchSampler(Sampler[list[SampleKey]]):
    """Batches with a fixed number of samples of each branch, branch after branch.

    An epoch lasts until the branch that needs most steps has been seen once, without its last, partial batch (batch
    norms need full ones); shorter branches start over in a new order.

    Args:
        sizes: images in each branch.
        batch_sizes: samples of each branch in a batch, of all processes together.
        seed: seed of the order.
        rank: this process, from 0; its sample i is sample i * processes + rank of the batch.
        processes: number of processes that a batch is split over.

    Raises:
        ValueError: a branch that is smaller than its share of a batch, or a share that cannot be split evenly.
    """

    def __init__(
        self, sizes: Sequence[int], batch_sizes: Sequence[int], seed: int, rank: int = 0, processes: int = 1
    ) -> None:
        for branch, (size, batch_size) in enumerate(zip(sizes, batch_sizes, strict=True)):
            if size < batch_size:
                raise ValueError(
                    f"DATASETS.{branch}.batch_size = {batch_size}, but the set has only {size} images; "
                    "take a smaller batch"
                )
            if batch_size % processes:
                raise ValueError(
                    f"DATASETS.{branch}.batch_size = {batch_size} counts the images of all processes together, and "
                    f"{processes} of them share it out evenly: take a multiple of {processes}"
                )
        self.sizes, self.batch_sizes, self.seed = sizes, batch_sizes, seed
        self.rank, self.processes = rank, processes
        self.epoch = 0
        self.first_step = 0

    def __len__(self) -> int:
        """Steps an epoch."""
        return max(size // batch for size, batch in zip(self.sizes, self.batch_sizes, strict=True))

    def start_at(self, epoch: int, step: int) -> None:
        """The next iteration begins with batch `step` of `epoch`."""
        self.epoch, self.first_step = epoch, step

    def __iter__(self) -> Iterator[list[SampleKey]]:
        epoch = self.epoch
        orders = [self._order(branch, epoch) for branch in range(len(self.sizes))]
        for step in range(self.first_step, len(self)):
            batch = []
            for branch, size in enumerate(self.batch_sizes):
                for draw in range(step * size, (step + 1) * size):
                    batch.append(SampleKey(branch, epoch, draw, int(orders[branch][draw])))
            yield batch[self.rank :: self.processes]  # equally many of each branch, since its share is a multiple

    def _order(self, branch: int, epoch: int) -> np.ndarray:
        """Positions in the order in which an epoch draws them; repeated with a new order as often as needed."""
        size = self.sizes[branch]
        rounds = -(-len(self) * self.batch_sizes[branch] // size)
        rng = stream(self.seed, "order", branch, epoch)
        return np.concatenate([rng.permutation(size) for _ in range(rounds)])
