"""Training samples: decode, flip, obfuscate. Runs in the data-loader's workers, on 8-bit images."""

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
    """Names a sample and, with the run's seed, everything random about it."""

    branch: int
    epoch: int
    draw: int
    """Which draw of the branch in this epoch; tells repetitions of an image apart."""
    position: int
    """Of the image in the index, from 0."""


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

    What is random about a sample follows from the seed and its key alone, not from the worker that makes it: the
    number of workers does not matter, and a resumed run sees what an uninterrupted one does.

    Args:
        branches: the images.
        sampler: draws the obfuscations.
        seed: of the run.
        quality: of the obfuscated image as it is sent: None lossless, 0..100 lossy WebP.
        camera: what happens to an image before the client sees it; None: nothing.
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
    """Batches of samples as `epoch` would draw them, of up to `images` images evenly spread over each branch."""
    keys = []
    for branch, index in enumerate(dataset.branches):
        count = min(images, len(index))
        keys += [SampleKey(branch, epoch, draw, draw * len(index) // count) for draw in range(count)]
    for start in range(0, len(keys), batch_size):
        yield default_collate([dataset[key] for key in keys[start : start + batch_size]])


def as_received(obfuscated: np.ndarray, quality: int | None) -> np.ndarray:
    """The obfuscated image (112, 112, 3) uint8 RGB that the server gets, against which the residual is taken."""
    return obfuscated if quality is None else EncodedImage.compress(obfuscated, quality).pixels


def _tensor(image: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))


def make_loader(dataset: Dataset[Any], num_workers: int, device: torch.device, **options: Any) -> DataLoader[Any]:
    """A data loader whose workers use one thread each: they share the processor already.

    PyTorch's threads are set to one in each worker by its DataLoader. OpenCV's are ended here, not in the workers:
    after a fork they cannot be, a worker would wait for ever.

    Args:
        dataset: what to load.
        num_workers: processes; 0: this one loads.
        device: where batches will go.
        options: of DataLoader.
    """
    if num_workers:
        cv2.setNumThreads(1)
    return DataLoader(dataset, num_workers=num_workers, pin_memory=device.type == "cuda", **options)
