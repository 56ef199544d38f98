"""Example faces of a validation set: what is sent and what is not, for people to look at."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from torchkit.client import Client
from torchkit.data.validation_set import ValidationSet
from validation.measure.evaluate import ObfuscatedImages

MAPS_SHOWN = 16
"""Channels of a feature map that are shown, as 4 x 4 tiles."""


@dataclass(frozen=True, eq=False)
class ExampleKind:
    """A face under one obfuscation; all images uint8.

    Attributes:
        obfuscation: its kind.
        obfuscated: (112, 112, 3) RGB, as the server gets it.
        residual: (112, 112, 3) RGB, clear minus obfuscated, halved, around mid-grey.
        features: (H, W) the first channels at the first shuffled tap, before the shuffle; None without a shuffle.
        shuffled: (H, W) the same channels after it.
    """

    obfuscation: str
    obfuscated: np.ndarray
    residual: np.ndarray
    features: np.ndarray | None
    shuffled: np.ndarray | None


@dataclass(frozen=True, eq=False)
class Example:
    """A face, (112, 112, 3) uint8 RGB, and it under each obfuscation."""

    clear: np.ndarray
    kinds: list[ExampleKind]


def example_faces(
    client: Client, data: ValidationSet, obfuscations: tuple[str, ...], seed: int, count: int
) -> list[Example]:
    """Up to `count` faces, evenly spread over the set's pairs, obfuscated as the evaluation does."""
    pairs = np.linspace(0, len(data.same), count, endpoint=False).astype(int)
    images = dict.fromkeys(int(data.rows[2 * pair]) for pair in pairs)  # without repeats, in order
    chosen = data.images[list(images)]
    received = ObfuscatedImages(chosen, obfuscations, seed, client.settings.image_quality)
    return [_example(client, obfuscations, *received[number]) for number in range(len(chosen))]


def _example(client: Client, obfuscations: tuple[str, ...], clear: Tensor, obfuscated: Tensor) -> Example:
    """From (3, 112, 112) and (K, 3, 112, 112) uint8 RGB."""
    shown, kinds = _for_people(clear), []
    for kind, image in zip(obfuscations, obfuscated, strict=True):
        sent = _for_people(image)
        difference = (shown.astype(np.int16) - sent) // 2 + 128
        before, after = shuffled_maps(client, clear, image)
        kinds.append(ExampleKind(kind, sent, difference.astype(np.uint8), before, after))
    return Example(shown, kinds)


def _for_people(image: Tensor) -> np.ndarray:
    """(3, H, W) -> (H, W, 3)."""
    return np.ascontiguousarray(image.permute(1, 2, 0).numpy())


@torch.inference_mode()
def shuffled_maps(client: Client, clear: Tensor, obfuscated: Tensor) -> tuple[np.ndarray | None, np.ndarray | None]:
    """The client's map at its first shuffled tap, before and after the shuffle, as tiles (H, W) uint8.

    The images are (3, 112, 112) uint8 RGB. Both maps share one scale from black to white. (None, None) for a client
    that shuffles nothing.
    """
    if not client.settings.shuffle_taps:
        return None, None
    shuffle = client.shuffles[str(min(client.settings.shuffle_taps))]
    seen: list[Tensor] = []
    handle = shuffle.register_forward_hook(lambda module, inputs, output: seen.extend((inputs[0], output)))
    try:
        device = next(client.parameters()).device
        client(client.prepare(clear[None].to(device), obfuscated[None].to(device)))
    finally:
        handle.remove()
    before, after = (found[0].float().cpu().numpy() for found in seen)
    return tiles(before, before.min(), before.max()), tiles(after, before.min(), before.max())


def tiles(maps: np.ndarray, low: float, high: float) -> np.ndarray:
    """The first `MAPS_SHOWN` channels of (C, h, w) in rows of four, (H, W) uint8; `low` is black, `high` white."""
    side = int(MAPS_SHOWN**0.5)
    channels, height, width = maps[:MAPS_SHOWN].shape
    grid = np.zeros((side * side, height, width), np.float32)
    grid[:channels] = np.clip((maps[:MAPS_SHOWN] - low) / max(high - low, 1e-12), 0, 1)
    rows = grid.reshape(side, side, height, width).transpose(0, 2, 1, 3)
    return np.round(255 * rows.reshape(side * height, side * width)).astype(np.uint8)
