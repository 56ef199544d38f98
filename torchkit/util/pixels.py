"""Convert images to network inputs, and colour orders: the one place that does.

Everywhere else images are uint8 RGB.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import cv2
import numpy as np
import torch
from torch import Tensor

INPUT_SIZE_PX = 112
"""Side of an aligned face."""
ChannelOrder = Literal["rgb", "bgr"]
CHANNEL_ORDERS = get_args(ChannelOrder)
HALF_RANGE = 127.5


def network_input(images: Tensor, channel_order: str) -> Tensor:
    """(B, 3, H, W) uint8 RGB -> float32 in [-1, 1] in `channel_order`."""
    return _ordered(images, channel_order).float().div_(HALF_RANGE).sub_(1)


def to_batch(images: Sequence[np.ndarray]) -> Tensor:
    """Images (H, W, 3) uint8 RGB -> (B, 3, H, W) uint8."""
    return torch.from_numpy(np.ascontiguousarray(np.stack(images).transpose(0, 3, 1, 2)))


def residual(clear: Tensor, obfuscated: Tensor, channel_order: str) -> Tensor:
    """(B, 3, H, W) uint8 RGB twice -> clear minus obfuscated, float32 in [-2, 2], in `channel_order`."""
    difference = clear.float().sub_(obfuscated.float()).div_(HALF_RANGE)
    return _ordered(difference, channel_order)


def _ordered(images: Tensor, channel_order: str) -> Tensor:
    assert channel_order in CHANNEL_ORDERS, channel_order
    return images.flip(1) if channel_order == "bgr" else images


def decode_rgb(data: bytes) -> np.ndarray | None:
    """Decode an image to (H, W, 3) uint8 RGB; None if the data are not an image."""
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error:  # raised for empty data
        return None
    return None if image is None else cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def decode_image(data: bytes, name: str) -> np.ndarray:
    """Decode an image to (112, 112, 3) uint8 RGB.

    Raises:
        ValueError: not an image, or not 112x112; the message begins with `name`.
    """
    image = decode_rgb(data)
    if image is None:
        raise ValueError(f"{name} cannot be decoded as an image; replace it or take it out of the list")
    if image.shape[:2] != (INPUT_SIZE_PX, INPUT_SIZE_PX):
        height, width = image.shape[:2]
        raise ValueError(f"{name} is {width}x{height}, expected an aligned 112x112 face; see Data/README.md")
    return image
