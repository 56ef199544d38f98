"""Training samples: decode, flip and obfuscate 8-bit images, in the data loader's workers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from torchkit.data.camera import Camera
from torchkit.data.index import Index
from torchkit.obfuscation import RandomObfuscation
from torchkit.payload import EncodedImage
from torchkit.util.seeding import stream


class SampleKey(NamedTuple):
    """The key of a sample; with the run's seed it determines everything random about it."""

    branch: int
    epoch: int
    draw: int
    """Number of the draw within the branch and epoch, which distinguishes repetitions of an image."""
    position: int
    """Position of the image in the index, from 0."""


class Sample(NamedTuple):
    """One training sample or, collated, a batch of them."""

    clear: Tensor
    """(3, 112, 112) uint8 RGB."""
    obfuscated: Tensor
    """(3, 112, 112) uint8 RGB."""
    label: Tensor
    """() int64."""


class TrainingSet(Dataset[Sample]):
    """Samples of several indices ("branches"), addressed by `SampleKey`.

    Everything random about a sample is determined by the seed and its key, not by the worker: the number of workers
    does not matter, and a resumed run sees the same samples as an uninterrupted one.

    Args:
        branches: the images.
        sampler: draws the obfuscations.
        seed: of the run.
        quality: of the obfuscated image as it is sent: None lossless, 0..100 lossy WebP.
        camera: changes an image before the client sees it; None: no change.
    """

    def __init__(
        self, branches: Sequence[Index], sampler: RandomObfuscation, seed: int, quality: int | None = None,
        camera: Camera | None = None,
    ) -> None:  # fmt: skip
        self.branches, self.sampler, self.seed, self.quality = branches, sampler, seed, quality
        self.camera = camera

    def __getitem__(self, key: SampleKey) -> Sample:
        index = self.branches[key.branch]
        rng = stream(self.seed, "sample", key.branch, key.epoch, key.draw)
        image = index.read(key.position)
        if rng.random() < 0.5:
            image = np.ascontiguousarray(image[:, ::-1])
        if self.camera is not None:
            image = self.camera(image, rng)
        obfuscated = as_received(self.sampler(image, rng), self.quality)
        label = torch.tensor(int(index.labels[key.position]))
        return Sample(_tensor(image), _tensor(obfuscated), label)


def sample_batches(dataset: TrainingSet, epoch: int, images: int, batch_size: int = 64) -> Iterator[Sample]:
    """Iterate over batches of the samples of `epoch`, of up to `images` images evenly spread over each branch."""
    keys = []
    for branch, index in enumerate(dataset.branches):
        count = min(images, len(index))
        keys += [SampleKey(branch, epoch, draw, draw * len(index) // count) for draw in range(count)]
    for start in range(0, len(keys), batch_size):
        yield default_collate([dataset[key] for key in keys[start : start + batch_size]])


def as_received(obfuscated: np.ndarray, quality: int | None) -> np.ndarray:
    """Return the obfuscated image (112, 112, 3) uint8 RGB as the server decodes it, which the residual refers to."""
    return obfuscated if quality is None else EncodedImage.compress(obfuscated, quality).pixels


def _tensor(image: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))


def make_loader(dataset: Dataset[Any], num_workers: int, device: torch.device, **options: Any) -> DataLoader[Any]:
    """Make a data loader whose workers use one thread each, since they share the processor already.

    PyTorch's DataLoader sets its own threads to one in each worker. OpenCV's threads are ended here: ending them in a
    worker, after the fork, would block for ever.

    Args:
        dataset: what to load.
        num_workers: number of processes; 0: load in this one.
        device: destination of the batches.
        options: of DataLoader.
    """
    if num_workers:
        cv2.setNumThreads(1)
    return DataLoader(dataset, num_workers=num_workers, pin_memory=device.type == "cuda", **options)
