"""What the processes of a training run hold in common, and how it stays the same in all of them.

Every process computes the gradient of its own loss: its part of the batch for what is averaged over images, the
whole of what is computed by all together (see torchkit.util.distributed). The mean over the processes is the gradient
that one process has. Only a sharded head is not averaged: its rows are this process's alone, and their gradient is
complete.

One explicit exchange after the last backward pass of a step, instead of DistributedDataParallel: it sees accumulated
gradients, loss scaling and parameters without gradient as they are, and the client has 1 M parameters.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from torchkit.head import MarginHead
from torchkit.task.sync import convert_sync_layers
from torchkit.util import distributed


def join_processes(modules: Iterable[nn.Module]) -> None:
    """Make what is trained the same in all processes, and let it see the whole batch."""
    if distributed.world_size() > 1:
        modules = list(modules)
        for module in modules:
            convert_sync_layers(module)
        broadcast_state(modules)


def broadcast_state(modules: Iterable[nn.Module]) -> None:
    """Give every process what the main one holds, but for the rows of sharded heads: a key may come from the system."""
    if distributed.world_size() == 1:
        return
    for module in modules:
        shards = {head.weight.data_ptr() for head in sharded_heads([module])}
        state = {name: tensor for name, tensor in module.state_dict().items() if tensor.data_ptr() not in shards}
        for name, tensor in state.items():
            state[name] = tensor.clone(memory_format=torch.contiguous_format)
            dist.broadcast(state[name], src=0)
        module.load_state_dict(state, strict=False)
    dist.barrier()


def sharded_heads(modules: Iterable[nn.Module]) -> list[MarginHead]:
    """The heads of which this process holds a part."""
    parts = (part for module in modules for part in module.modules())
    return [part for part in parts if isinstance(part, MarginHead) and part.shard.count > 1]


def check_same(step: int, what: str, device: torch.device) -> None:
    """Make sure that all processes found the same.

    Raises:
        ValueError: in every process, when they did not.
    """
    numbers = torch.tensor([step, -step], device=device)
    highest, lowest = distributed.reduce_max(numbers).tolist()
    if highest != -lowest:
        raise ValueError(f"the {what} is not the same for all processes; let all of them see the same folder")


def means(values: Mapping[str, float], device: torch.device) -> dict[str, float]:
    """Means over the processes of named numbers."""
    count = distributed.world_size()
    if count == 1:
        return dict(values)
    total = distributed.reduce_sum(torch.tensor(list(values.values()), dtype=torch.float64, device=device))
    return dict(zip(values, (total / count).tolist(), strict=True))


def means_with_gradient(values: Tensor) -> Tensor:
    """Means over the processes of a tensor, (...) -> the same.

    Its gradient is right once the gradients of what all processes hold are averaged, as those of their own values are.
    """
    count = distributed.world_size()
    return values if count == 1 else distributed.reduce_sum(distributed.scale_gradient(values, count)) / count


class Gradients:
    """The gradients of a run's parameters.

    Args:
        optimizer: of the run.
        modules: what is trained.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, modules: Iterable[nn.Module]) -> None:
        self.own: list[nn.Parameter] = [head.weight for head in sharded_heads(modules)]
        """Rows that no other process has."""
        own = {id(parameter) for parameter in self.own}
        self.shared = [p for group in optimizer.param_groups for p in group["params"] if id(p) not in own]

    @torch.no_grad()
    def average(self) -> None:
        """Replace the gradients of what all processes hold by their means.

        A value that is not finite in a sharded head's gradient appears in all others, so that with loss scaling every
        process skips the same steps.
        """
        count = distributed.world_size()
        if count == 1:
            return
        gradients = _gradients(self.shared)
        flat = torch.cat(
            [_finite_is_zero(_gradients(self.own), gradients[0]), *(gradient.flatten() for gradient in gradients)]
        )
        dist.all_reduce(flat)
        flat /= count
        parts = (flat[1:] + flat[0]).split([gradient.numel() for gradient in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))

    def clip(self, max_norm: float) -> None:
        """Clip the norm of all gradients together, as `torch.nn.utils.clip_grad_norm_` does in one process."""
        if not self.own:
            nn.utils.clip_grad_norm_(self.shared, max_norm)
            return
        own, shared = (_squared_norm(_gradients(part), part[0].device) for part in (self.own, self.shared))
        norm = (shared + distributed.reduce_sum(own)).sqrt()
        factor = (max_norm / (norm + 1e-6)).clamp(max=1)  # PyTorch's epsilon
        for gradient in (*_gradients(self.own), *_gradients(self.shared)):
            gradient.mul_(factor)


def _gradients(parameters: Iterable[nn.Parameter]) -> list[Tensor]:
    """Of those that have one: parameters that no loss reaches are the same in every process."""
    return [parameter.grad for parameter in parameters if parameter.grad is not None]


def _finite_is_zero(gradients: list[Tensor], like: Tensor) -> Tensor:
    """(1,) zero if all values are finite, else NaN."""
    finite = all(bool(gradient.isfinite().all()) for gradient in gradients)
    return like.new_full((1,), 0.0 if finite else torch.nan)


def _squared_norm(gradients: list[Tensor], device: torch.device) -> Tensor:
    return sum((gradient.float().square().sum() for gradient in gradients), torch.zeros((), device=device))


class OptimizerState:
    """State of an optimiser for a checkpoint that any number of processes can read: with the rows of whole heads.

    Args:
        optimizer: of the run.
        modules: what is trained.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, modules: Iterable[nn.Module]) -> None:
        self.optimizer = optimizer
        heads = {id(head.weight): head for head in sharded_heads(modules)}
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self.heads = {index: heads[id(p)] for index, p in enumerate(parameters) if id(p) in heads}
        """By the number that the optimiser knows their weights by."""

    def full(self) -> dict[str, Any]:
        """The state; every process must call it."""
        state = self.optimizer.state_dict()
        return {**state, "state": {index: self._rows(index, entry, "all") for index, entry in state["state"].items()}}

    def load(self, state: dict[str, Any]) -> None:
        """Load what `full` gave in this or another number of processes."""
        entries = {index: self._rows(index, entry, "own") for index, entry in state["state"].items()}
        self.optimizer.load_state_dict({**state, "state": entries})

    def _rows(self, index: int, entry: dict[str, Any], which: str) -> dict[str, Any]:
        """The entry of parameter `index` with all rows, or this process's own, where it has rows."""
        head = self.heads.get(index)
        if head is None:
            return entry
        change = head.all_rows if which == "all" else head.own_rows
        return {name: change(value) if value.dim() else value for name, value in entry.items()}
