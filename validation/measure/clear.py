"""Accuracy of a recogniser on clear images, without a client."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from torchkit.data.validation_set import ValidationSet
from torchkit.util.device import autocast


@torch.inference_mode()
def embed_clear(
    embed: Callable[[Tensor], Tensor],
    data: ValidationSet,
    device: torch.device,
    batch_size: int,
    amp: torch.dtype | None = None,
) -> np.ndarray:
    """Embeddings of every row of a set.

    Args:
        embed: (B, 3, 112, 112) uint8 RGB on `device` -> (B, D), unit length; a `Recogniser`, or `ServerTask.embed`.
        data: the set.
        device: to compute on.
        batch_size: images at once.
        amp: type of mixed precision; None: float32.

    Returns:
        (N, D) float32, unit length, in row order.
    """
    found = []
    with tqdm(total=len(data.images), desc=data.name, unit=" images", dynamic_ncols=True) as bar, autocast(amp, device):
        for start in range(0, len(data.images), batch_size):
            images = torch.from_numpy(data.images[start : start + batch_size]).to(device)
            found.append(embed(images).float().cpu().numpy())
            bar.update(len(images))
    return np.concatenate(found)[data.rows]
