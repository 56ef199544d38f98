"""Embeds a validation set under every condition in one pass over its distinct pictures."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from torchkit.data.training_set import one_thread_a_worker
from torchkit.data.validation_set import ValidationSet
from torchkit.obfuscation import obfuscate
from torchkit.system import ProFaceC
from torchkit.util.seeding import content_stream


@dataclass(frozen=True)
class Condition:
    """What the server is given."""

    name: str
    """clear, obfuscated or compensated."""
    obfuscation: str | None
    """Kind of obfuscation; None for clear."""


def conditions(obfuscations: tuple[str, ...]) -> list[Condition]:
    """Clear, then obfuscated and compensated for each obfuscation."""
    pairs = [Condition(name, kind) for kind in obfuscations for name in ("obfuscated", "compensated")]
    return [Condition("clear", None), *pairs]


class ObfuscatedPictures(Dataset[tuple[Tensor, Tensor]]):
    """Distinct pictures with their obfuscations.

    The hybrid's cells are drawn from the seed and the picture's own bytes: every run and every order of pictures
    gives the same.

    Item: (3, 112, 112) uint8 RGB and (K, 3, 112, 112) uint8 RGB.
    """

    def __init__(self, images: np.ndarray, obfuscations: tuple[str, ...], seed: int) -> None:
        self.images, self.obfuscations, self.seed = images, obfuscations, seed

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, position: int) -> tuple[Tensor, Tensor]:
        clear = self.images[position]
        picture = np.ascontiguousarray(clear.transpose(1, 2, 0))
        obfuscated = [
            obfuscate(picture, kind, content_stream(picture, self.seed, kind)).transpose(2, 0, 1)
            for kind in self.obfuscations
        ]
        return torch.from_numpy(clear), torch.from_numpy(np.stack(obfuscated))


@torch.inference_mode()
def embed(
    system: ProFaceC,
    data: ValidationSet,
    obfuscations: tuple[str, ...],
    device: torch.device,
    batch_size: int,
    num_workers: int,
    seed: int,
) -> dict[Condition, np.ndarray]:
    """Embeddings of every row of a set under every condition.

    Returns:
        condition -> (N, D) float32, unit length, in row order.
    """
    pictures = ObfuscatedPictures(data.images, obfuscations, seed)
    loader = DataLoader(
        pictures,
        batch_size=batch_size,
        num_workers=num_workers,
        pin_memory=device.type == "cuda",
        worker_init_fn=one_thread_a_worker,
    )
    wanted = conditions(obfuscations)
    distinct = {
        condition: np.empty((len(pictures), system.recogniser.embedding_size), np.float32) for condition in wanted
    }
    start = 0
    with tqdm(total=len(pictures), desc=data.name, unit=" images", dynamic_ncols=True) as bar:
        for clear, obfuscated in loader:
            stop = start + len(clear)
            embeddings = _embed_batch(system, clear.to(device), obfuscated.to(device))
            for condition, batch in zip(wanted, embeddings, strict=True):
                distinct[condition][start:stop] = batch.cpu().numpy()
            bar.update(stop - start)
            start = stop
    return {condition: array[data.rows] for condition, array in distinct.items()}


def _embed_batch(system: ProFaceC, clear: Tensor, obfuscated: Tensor) -> Iterator[Tensor]:
    """Embeddings (B, D) in the order of `conditions`; obfuscated is (B, K, 3, 112, 112)."""
    yield system.recogniser(clear)
    for images in obfuscated.unbind(dim=1):
        yield system.recogniser(images)
        yield system(clear, images)
