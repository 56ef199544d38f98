"""Sums, maxima and concatenations over the processes of a run; with one process each is the identity.

The convention for gradients: a loss computed from reduced values is the same number on every process, each process
runs `backward` on it, and it counts once. `reduce_sum` therefore passes its gradient on unchanged, and `gather` sums
the gradients that all processes have for a process's own part. The result is the gradient of that one loss, exact for
weights that are split over the processes. Where gradients are averaged over the processes afterwards (weights that all
of them hold), it comes out divided by `world_size()`; `scale_gradient` before `gather` corrects that. A loss that every
process computes as a whole from gathered values alone, without `reduce_sum`, counts once in each process: there the
average is already right.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def _running() -> bool:
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    """Number of this process, from 0; 0 where there is no process group."""
    return dist.get_rank() if _running() else 0


def world_size() -> int:
    """Number of processes; 1 where there is no process group."""
    return dist.get_world_size() if _running() else 1


def is_main() -> bool:
    """Whether this is the process that writes files and prints."""
    return rank() == 0


def gather(x: Tensor) -> Tensor:
    """Concatenate the (B, ...) of all processes to (B_total, ...), in the order of the ranks; B may differ.

    The gradient of a process's part is the sum of the gradients that all processes have for it. Tensors without
    gradient, also of integers, are gathered too.
    """
    return x if world_size() == 1 else _Gather.apply(x)


def reduce_sum(x: Tensor) -> Tensor:
    """Sum tensors of the same shape over the processes.

    The gradient passes unchanged: what is computed from the sum is the same on every process and counts once.
    """
    return x if world_size() == 1 else _ReduceSum.apply(x)


def reduce_max(x: Tensor) -> Tensor:
    """Take the element-wise maximum of tensors of the same shape over the processes, without gradient."""
    if world_size() == 1:
        return x.detach()
    result = x.detach().clone()
    dist.all_reduce(result, dist.ReduceOp.MAX)
    return result


def scale_gradient(x: Tensor, factor: float) -> Tensor:
    """Return x, and multiply its gradient by `factor`."""
    return x if factor == 1 else _ScaleGradient.apply(x, factor)


def _sizes(size: int, device: torch.device) -> list[int]:
    """`size` of each process, in the order of the ranks."""
    sizes = torch.zeros(world_size(), dtype=torch.int64, device=device)
    sizes[rank()] = size
    if world_size() > 1:
        dist.all_reduce(sizes)
    return sizes.tolist()


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.sizes = _sizes(len(x), x.device)
        padded = x.new_zeros((max(ctx.sizes), *x.shape[1:]))  # parts of one size: what every backend gathers
        padded[: len(x)] = x
        parts = [torch.empty_like(padded) for _ in ctx.sizes]
        dist.all_gather(parts, padded)
        return torch.cat([part[:size] for part, size in zip(parts, ctx.sizes, strict=True)])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.contiguous().clone()
        dist.all_reduce(total)
        return total.split(ctx.sizes)[rank()]


class _ReduceSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.detach().clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


class _ScaleGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient * ctx.factor, None
