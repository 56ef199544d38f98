"""Block channel shuffle: the map is cut into square blocks, and each block's channels are permuted by the key.

Output channel c of block k is input channel key[k, c] (PRO-Face C, section III-C). Blocks are counted row by row
and keep their places.
"""

from __future__ import annotations

import secrets
from typing import Any

import torch
from torch import Tensor, nn

from torchkit.backbone import Shape
from torchkit.util.seeding import stream


def num_blocks(shape: Shape, block_px: int) -> int:
    """How many blocks of `block_px` a (C, H, W) map has.

    Raises:
        ValueError: the map's sides are no multiples of `block_px`.
    """
    _, height, width = shape
    if height % block_px or width % block_px:
        raise ValueError(f"SHUFFLE.BLOCK_PX = {block_px}: the map is {height}x{width}; a block must divide both sides")
    return (height // block_px) * (width // block_px)


def draw_key(shape: Shape, block_px: int, seed: int | None, name: str) -> Tensor:
    """(blocks, C) int64: a channel permutation for each block.

    Args:
        shape: (C, H, W) of the map.
        block_px: side of a block in pixels.
        seed: named seed, for runs that repeat; None: from the operating system's generator.
        name: tells the streams of several maps apart.
    """
    rng = stream(secrets.token_hex(32) if seed is None else seed, "key", name)
    permutations = [torch.from_numpy(rng.permutation(shape[0])) for _ in range(num_blocks(shape, block_px))]
    return torch.stack(permutations)


def element_index(key: Tensor, shape: Shape, block_px: int) -> Tensor:
    """(C*H*W,) int64: where each element of the shuffled map, flattened, comes from in the flattened input."""
    _, height, width = shape
    rows, columns = torch.arange(height) // block_px, torch.arange(width) // block_px
    block = rows[:, None] * (width // block_px) + columns[None, :]  # (H, W)
    source_channel = key.cpu()[block].permute(2, 0, 1)  # (C, H, W)
    position = torch.arange(height * width).view(1, height, width)
    return (source_channel * (height * width) + position).flatten()


class _Permute(torch.autograd.Function):
    """Reorder columns; the gradient of a permutation is its inverse, which is far cheaper than a scattered sum."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, index: Tensor, inverse: Tensor) -> Tensor:
        ctx.save_for_backward(inverse)
        return x.index_select(1, index)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (inverse,) = ctx.saved_tensors
        return grad.index_select(1, inverse), None, None


class BlockChannelShuffle(nn.Module):
    """Applies a key to maps of one shape.

    Args:
        shape: (C, H, W) of the maps.
        block_px: side of a block in pixels; must divide H and W.
        key: (blocks, C) int64, a permutation of the channels a row.

    Shape: (B, C, H, W) -> (B, C, H, W).
    """

    key: Tensor
    index: Tensor
    inverse: Tensor

    def __init__(self, shape: Shape, block_px: int, key: Tensor) -> None:
        super().__init__()
        self.shape, self.block_px = shape, block_px
        self.register_buffer("key", key)
        self.register_buffer("index", torch.empty(0, dtype=torch.int64), persistent=False)
        self.register_buffer("inverse", torch.empty(0, dtype=torch.int64), persistent=False)
        self.set_key(key)

    def set_key(self, key: Tensor) -> None:
        """Replace the key.

        Raises:
            ValueError: wrong shape, or a row that is no permutation.
        """
        expected = (num_blocks(self.shape, self.block_px), self.shape[0])
        if tuple(key.shape) != expected:
            raise ValueError(f"key has shape {tuple(key.shape)}, expected (blocks, channels) = {expected}")
        if not torch.equal(key.sort(dim=1).values, torch.arange(expected[1], device=key.device).expand(expected)):
            raise ValueError("key: a row is no permutation of the channels")
        device = self.key.device
        self.key = key.to(device, torch.int64)
        self.index = element_index(key, self.shape, self.block_px).to(device)
        self.inverse = torch.argsort(self.index)

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args)
        self.set_key(self.key)  # the derived indices are not stored

    def forward(self, x: Tensor) -> Tensor:
        return self._permuted(x, self.index, self.inverse)

    def restore(self, x: Tensor) -> Tensor:
        """Undo `forward`; needs the key."""
        return self._permuted(x, self.inverse, self.index)

    @staticmethod
    def _permuted(x: Tensor, index: Tensor, inverse: Tensor) -> Tensor:
        return _Permute.apply(x.flatten(1), index, inverse).view(x.shape)
