"""Batch norms and dropouts that work on the whole batch, of which each process holds a part.

A batch norm of half a batch differs from that of the whole: with these layers the number of processes does not matter.
They replace PyTorch's layers in a network that is trained; weights and names stay.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from torchkit.util import distributed

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def convert_sync_layers(module: nn.Module) -> None:
    """Replace the batch norms and dropouts within `module`, in place.

    Raises:
        ValueError: a batch norm of another class than PyTorch's.
    """
    for name, layer in list(module.named_modules()):
        if type(layer) in BATCH_NORMS:
            assert isinstance(layer, _BatchNorm)
            module.set_submodule(name, SyncBatchNorm.like(layer))
        elif isinstance(layer, _BatchNorm):
            raise ValueError(
                f"{name} is a {type(layer).__name__}, for which several processes have no batch norm over all of them; "
                "train in one process, or take another BACKBONE_NAME"
            )
        elif isinstance(layer, nn.Dropout):
            module.set_submodule(name, SyncDropout(layer.p))


class SyncBatchNorm(_BatchNorm):
    """Batch norm (Ioffe and Szegedy, 2015, arXiv 1502.03167) by the statistics of all processes' batches.

    PyTorch's layer of this name runs on GPUs alone.

    Shape: (B, C, ...) -> the same; B is the same in all processes.
    """

    @classmethod
    def like(cls, layer: _BatchNorm) -> SyncBatchNorm:
        """Make a layer that shares the parameters and buffers of `layer`."""
        synced = cls(layer.num_features, layer.eps, layer.momentum, affine=False)
        synced.affine, synced.weight, synced.bias = layer.affine, layer.weight, layer.bias
        synced.running_mean, synced.running_var = layer.running_mean, layer.running_var
        synced.num_batches_tracked = layer.num_batches_tracked
        return synced.train(layer.training)

    def _check_input_dim(self, _: Tensor) -> None: ...

    @torch.compiler.disable
    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        mean, var, count = batch_moments(x.detach())
        self._follow(mean, var * count / (count - 1))
        return _Normalise.apply(x, self.weight, self.bias, mean, var, self.eps)

    def _follow(self, mean: Tensor, unbiased_var: Tensor) -> None:
        assert self.running_mean is not None and self.running_var is not None and self.momentum is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(unbiased_var, self.momentum)


@torch.no_grad()
def batch_moments(x: Tensor) -> tuple[Tensor, Tensor, int]:
    """Compute mean and biased variance (C,) float32 over all processes' (B, C, ...), and the number of values.

    The variance is that within the processes plus that of their means, which avoids differences of large squares.
    """
    processes = distributed.world_size()
    own = torch.stack(torch.var_mean(x.float(), _other_dims(x), correction=0))  # (2, C)
    every = own.new_zeros(processes, *own.shape)
    every[distributed.rank()] = own
    var, mean = distributed.reduce_sum(every).unbind(dim=1)  # (processes, C) twice, in one exchange
    return mean.mean(0), var.mean(0) + mean.var(0, correction=0), x.numel() // x.shape[1] * processes


class _Normalise(torch.autograd.Function):
    """(x - mean) / sqrt(var + eps) * weight + bias, where the mean and variance follow from all processes' x."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, mean: Tensor, var: Tensor, eps: float
    ) -> Tensor:
        ctx.save_for_backward(x, weight, mean, (var + eps).rsqrt())
        return F.batch_norm(x, mean, var, weight, bias, False, 0.0, eps)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, inverse = ctx.saved_tensors
        shape = [1, -1] + [1] * (x.dim() - 2)
        normed, grad32 = (x.float() - mean.view(shape)) * inverse.view(shape), grad.float()
        sums = torch.stack([grad32.sum(_other_dims(x)), (grad32 * normed).sum(_other_dims(x))])  # (2, C)
        values = x.numel() // x.shape[1] * distributed.world_size()
        mean_grad, mean_product = (distributed.reduce_sum(sums) / values).view(2, *shape)
        scale = inverse if weight is None else inverse * weight
        grad_x = (grad32 - mean_grad - normed * mean_product) * scale.view(shape)
        if weight is None:
            return grad_x.to(x.dtype), None, None, None, None, None
        return grad_x.to(x.dtype), sums[1].to(weight.dtype), sums[0].to(weight.dtype), None, None, None


def _other_dims(x: Tensor) -> list[int]:
    """List all dimensions but the channels'."""
    return [0, *range(2, x.dim())]


class SyncDropout(nn.Dropout):
    """Dropout with this process's rows of the mask that a single process would draw for the whole batch.

    Row i of this process is row i * processes + rank of the batch. All processes draw the same numbers.
    """

    @torch.compiler.disable
    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        processes = distributed.world_size()
        whole = x.detach().repeat(processes, *[1] * (x.dim() - 1))
        mask = F.dropout(torch.ones_like(whole), self.p)
        return x * mask[distributed.rank() :: processes]
