"""Embeds a validation set under every condition in one pass over its distinct images, shared out among processes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset, Subset
from tqdm import tqdm

from torchkit.data.training_set import as_received, make_loader
from torchkit.data.validation_set import ValidationSet
from torchkit.obfuscation import evaluation_image
from torchkit.system import ProFaceC
from torchkit.util.device import autocast
from torchkit.util.distributed import is_main, rank, reduce_sum, world_size


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


class ObfuscatedImages(Dataset[tuple[Tensor, Tensor]]):
    """Distinct images with their obfuscations.

    The hybrid's cells are drawn from the seed and the image's own bytes: every run and every order of images
    gives the same. `quality` is the client's: None for lossless images, 0..100 for lossy ones.

    Item: (3, 112, 112) uint8 RGB and (K, 3, 112, 112) uint8 RGB.
    """

    def __init__(
        self, images: np.ndarray, obfuscations: tuple[str, ...], seed: int, quality: int | None = None
    ) -> None:
        self.images, self.obfuscations, self.seed, self.quality = images, obfuscations, seed, quality

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, position: int) -> tuple[Tensor, Tensor]:
        clear = self.images[position]
        image = np.ascontiguousarray(clear.transpose(1, 2, 0))
        obfuscated = [
            as_received(evaluation_image(image, kind, self.seed), self.quality).transpose(2, 0, 1)
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
    flip: bool = False,
    amp: torch.dtype | None = None,
) -> dict[Condition, np.ndarray]:
    """Embeddings of every row of a set under every condition; each process embeds its part, and gets all.

    Args:
        system: client and server.
        data: the set.
        obfuscations: kinds.
        device: to compute on.
        batch_size: images at once.
        num_workers: processes that obfuscate.
        seed: of the hybrid.
        flip: fuse the embeddings of each image and its mirror image, see `fused`.
        amp: type of mixed precision; None: float32.

    Returns:
        condition -> (N, D) float32, unit length, in row order.
    """
    images = ObfuscatedImages(data.images, obfuscations, seed, system.client.settings.image_quality)
    own = range(rank(), len(images), world_size())
    loader = make_loader(Subset(images, own), num_workers, device, batch_size=batch_size)
    wanted = conditions(obfuscations)
    distinct = {
        condition: np.zeros((len(images), system.recogniser.embedding_size), np.float32) for condition in wanted
    }
    start = 0
    progress = tqdm(total=len(images), desc=data.name, unit=" images", dynamic_ncols=True, disable=not is_main())
    with progress as bar, autocast(amp, device):
        for clear, obfuscated in loader:
            places = own[start : start + len(clear)]
            embeddings = _embed_batch(system, clear.to(device), obfuscated.to(device), flip)
            for condition, batch in zip(wanted, embeddings, strict=True):
                distinct[condition][places.start : places.stop : places.step] = batch.cpu().numpy()
            start += len(clear)
            bar.update(min(start * world_size(), len(images)) - bar.n)
    return {condition: _from_all(array, device)[data.rows] for condition, array in distinct.items()}


def _from_all(array: np.ndarray, device: torch.device) -> np.ndarray:
    """The rows of all processes, each of which has zeros for those of the others."""
    return array if world_size() == 1 else reduce_sum(torch.from_numpy(array).to(device)).cpu().numpy()


def _embed_batch(system: ProFaceC, clear: Tensor, obfuscated: Tensor, flip: bool) -> Iterator[Tensor]:
    """Embeddings (B, D) in the order of `conditions`; obfuscated is (B, K, 3, 112, 112)."""
    yield fused(system, clear, None) if flip else system.recogniser(clear)
    for images in obfuscated.unbind(dim=1):
        yield fused(system, images, None) if flip else system.recogniser(images)
        yield fused(system, clear, images) if flip else system(clear, images)


def fused(system: ProFaceC, images: Tensor, obfuscated: Tensor | None) -> Tensor:
    """Embedding (B, D), unit length, of images and their mirror images together.

    The sum of what the recogniser makes of both before it is brought to unit length, so that the longer embedding, of
    the clearer image, weighs more: how AdaFace's published accuracies fuse (Kim et al., CVPR 2022).

    Of a compensated image the clear and the obfuscated image are both mirrored. The server could mirror the
    obfuscated image itself; the features of the mirrored residual are new to it, and a hybrid is not drawn a second
    time. So the client sends two messages instead of one.

    Args:
        system: client and server.
        images: (B, 3, 112, 112) uint8 RGB, clear where `obfuscated` is given.
        obfuscated: what is sent for them; None: `images` themselves are recognised.
    """
    mirrored = None if obfuscated is None else obfuscated.flip(-1)
    return F.normalize(_unscaled(system, images, obfuscated) + _unscaled(system, images.flip(-1), mirrored))


def _unscaled(system: ProFaceC, images: Tensor, obfuscated: Tensor | None) -> Tensor:
    """The embedding (B, D) before it is brought to unit length; arguments as `fused`."""
    if obfuscated is None:
        return system.recogniser.forward_intermediates(images)[1]
    return system.server.forward_intermediates(obfuscated, system.features(images, obfuscated))[1]
