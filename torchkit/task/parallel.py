"""Keep the modules of a training run equal in all processes.

Every process computes the gradient of its own loss: that of its part of the batch where a loss is averaged over images,
the whole loss where all processes compute it together (see torchkit.util.distributed). The mean over the processes is
the gradient that a single process would have. Sharded heads alone are not averaged: each process holds other rows, and
their gradient is complete.

Gradients are exchanged once, after the last backward pass of a step. Unlike DistributedDataParallel this leaves
accumulated gradients, loss scaling and parameters without gradient as they are; the client has only 1 M parameters.
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
    """Give the modules the same state in all processes, and layers that see the whole batch."""
    if distributed.world_size() > 1:
        modules = list(modules)
        for module in modules:
            convert_sync_layers(module)
        broadcast_state(modules)


def broadcast_state(modules: Iterable[nn.Module]) -> None:
    """Copy the main process's state to all, except the rows of sharded heads: keys may be drawn from the system."""
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
    """List the heads of which this process holds a part."""
    parts = (part for module in modules for part in module.modules())
    return [part for part in parts if isinstance(part, MarginHead) and part.shard.count > 1]


def check_same(step: int, what: str, device: torch.device) -> None:
    """Check that `step` is the same in all processes.

    Raises:
        ValueError: it differs; raised in every process.
    """
    numbers = torch.tensor([step, -step], device=device)
    highest, lowest = distributed.reduce_max(numbers).tolist()
    if highest != -lowest:
        raise ValueError(f"the {what} is not the same for all processes; let all of them see the same folder")


def means(values: Mapping[str, float], device: torch.device) -> dict[str, float]:
    """Average numbers by name over the processes."""
    count = distributed.world_size()
    if count == 1:
        return dict(values)
    total = distributed.reduce_sum(torch.tensor(list(values.values()), dtype=torch.float64, device=device))
    return dict(zip(values, (total / count).tolist(), strict=True))


def means_with_gradient(values: Tensor) -> Tensor:
    """Average a tensor (...) over the processes.

    Its gradient is right after the usual averaging of gradients over the processes.
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
        """The rows of sharded heads, which no other process has."""
        own = {id(parameter) for parameter in self.own}
        self.shared = [p for group in optimizer.param_groups for p in group["params"] if id(p) not in own]

    @torch.no_grad()
    def average(self) -> None:
        """Average the gradients of the parameters that all processes hold.

        A non-finite value in a sharded head's gradient makes all other gradients non-finite too, so that with loss
        scaling every process skips the same steps.
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
    """List the gradients of the parameters that have one, which are the same parameters in every process."""
    return [parameter.grad for parameter in parameters if parameter.grad is not None]


def _finite_is_zero(gradients: list[Tensor], like: Tensor) -> Tensor:
    """(1,) zero if all values are finite, else NaN."""
    finite = all(bool(gradient.isfinite().all()) for gradient in gradients)
    return like.new_full((1,), 0.0 if finite else torch.nan)


def _squared_norm(gradients: list[Tensor], device: torch.device) -> Tensor:
    return sum((gradient.float().square().sum() for gradient in gradients), torch.zeros((), device=device))


class OptimizerState:
    """The state of an optimiser for checkpoints, with the rows of whole heads: any number of processes can load it.

    Args:
        optimizer: of the run.
        modules: what is trained.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, modules: Iterable[nn.Module]) -> None:
        self.optimizer = optimizer
        heads = {id(head.weight): head for head in sharded_heads(modules)}
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self.heads = {index: heads[id(p)] for index, p in enumerate(parameters) if id(p) in heads}
        """Sharded heads by the index of their weight in the optimiser."""

    def full(self) -> dict[str, Any]:
        """Return the state with all rows; every process must call it."""
        state = self.optimizer.state_dict()
        return {**state, "state": {index: self._rows(index, entry, "all") for index, entry in state["state"].items()}}

    def load(self, state: dict[str, Any]) -> None:
        """Load the result of `full`, from any number of processes."""
        entries = {index: self._rows(index, entry, "own") for index, entry in state["state"].items()}
        self.optimizer.load_state_dict({**state, "state": entries})

    def _rows(self, index: int, entry: dict[str, Any], which: str) -> dict[str, Any]:
        """Return the entry of parameter `index` with all rows or this process's own, where it has rows."""
        head = self.heads.get(index)
        if head is None:
            return entry
        change = head.all_rows if which == "all" else head.own_rows
        return {name: change(value) if value.dim() else value for name, value in entry.items()}
