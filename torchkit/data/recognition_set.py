"""Training samples of a recogniser: clear images, half of them mirrored; made in the data loader's workers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from torchkit.data.index import Index
from torchkit.data.training_set import SampleKey
from torchkit.util.seeding import stream


class ClearSample(NamedTuple):
    """One training sample or, collated, a batch of them."""

    clear: Tensor
    """(3, 112, 112) uint8 RGB."""
    label: Tensor
    """() int64."""


class RecognitionSet(Dataset[ClearSample]):
    """Samples of several indices ("branches"), addressed by `SampleKey`; like `TrainingSet`, without obfuscation.

    Args:
        branches: the images.
        seed: of the run.
    """

    def __init__(self, branches: Sequence[Index], seed: int) -> None:
        self.branches, self.seed = branches, seed

    def __getitem__(self, key: SampleKey) -> ClearSample:
        index = self.branches[key.branch]
        image = index.read(key.position)
        if stream(self.seed, "sample", key.branch, key.epoch, key.draw).random() < 0.5:
            image = image[:, ::-1]
        pixels = np.ascontiguousarray(image.transpose(2, 0, 1))
        return ClearSample(torch.from_numpy(pixels), torch.tensor(int(index.labels[key.position])))
