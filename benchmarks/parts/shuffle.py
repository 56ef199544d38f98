"""Block channel shuffle, forward and backward."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from benchmarks import baseline
from benchmarks.harness import Comparison, Sizes, require_close
from benchmarks.inputs import KEY_SEED
from torchkit.client import BlockChannelShuffle
from torchkit.client.shuffle import draw_key

SHAPE = (64, 56, 56)
"""Of the maps: the first tap's in the published layout."""


def shuffle(_: Path, sizes: Sizes) -> Comparison:
    key = draw_key(SHAPE, baseline.BLOCK_PX, KEY_SEED, "bench")
    module = BlockChannelShuffle(SHAPE, baseline.BLOCK_PX, key)
    maps = torch.randn(sizes.shuffle_batch, *SHAPE, requires_grad=True)
    slope = torch.randn(maps.shape)

    def both_ways(forward: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        out = forward(maps)
        return out.detach(), torch.autograd.grad(out, maps, slope)[0]

    return Comparison(
        lambda: both_ways(lambda x: baseline.shuffle(x, key, baseline.BLOCK_PX)),
        lambda: both_ways(module),
        _check_maps,
    )


def _check_maps(theirs: tuple[Tensor, Tensor], ours: tuple[Tensor, Tensor]) -> None:
    for name, a, b in zip(("maps", "gradients"), theirs, ours, strict=True):
        require_close(f"shuffle: the {name}", (a - b).abs().max().item(), 0)
