"""Fold batch norms of a frozen network into the convolutions before them, where that is exact.

A batch norm after a convolution is an affine map of its output: scale and shift move into its weights and bias. A batch
norm before a zero-padded convolution (the first of an IR unit) is left alone: its shift does not reach the padding.
"""

from __future__ import annotations

from itertools import pairwise

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


def fold_batch_norms(network: nn.Module) -> None:
    """Fold in place, for inference only: folded batch norms become identities.

    Two neighbours fold where one module runs its children in order: in every plain `nn.Sequential`, and in modules
    that say so with `runs_in_order = True`. What derives from these may do more than they do, and is left alone.
    """
    for parent in list(network.modules()):
        if type(parent) is nn.Sequential or getattr(parent, "runs_in_order", False):
            _fold_children(parent)


def _fold_children(parent: nn.Module) -> None:
    for name, following in pairwise(list(parent._modules)):
        first, norm = parent._modules[name], parent._modules[following]
        if type(first) is nn.Conv2d and type(norm) is nn.BatchNorm2d:
            setattr(parent, name, fuse_conv_bn_eval(first, norm))
            setattr(parent, following, nn.Identity())
