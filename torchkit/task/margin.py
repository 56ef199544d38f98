"""The margin heads of a run, one for each branch of data, and their loss, in one process or several."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor, nn

from torchkit.config import EmbeddingConfig
from torchkit.head import HEADS, WHOLE, MarginHead, NoHead, Shard, load_full_state
from torchkit.loss import softmax_loss
from torchkit.task.checkpoints import load_training_checkpoint
from torchkit.util.distributed import gather, scale_gradient, world_size


def make_heads(config: EmbeddingConfig, embedding_size: int, num_classes: Sequence[int]) -> nn.ModuleList:
    """Make a head for each of DATASETS with its number of identities; DIST_FC: with this process's part of them.

    The weights are fresh, or those of HEAD_RESUME. A branch of weight 0 has no head.
    """
    shard, rate, path = head_shard(config), config.HEAD.SAMPLE_RATE, config.HEAD_RESUME
    heads = nn.ModuleList(
        HEADS[config.HEAD_NAME](embedding_size, classes, data.scale, data.margin, shard, rate)
        if data.weight
        else NoHead()
        for data, classes in zip(config.DATASETS, num_classes, strict=True)
    )
    if path is not None:
        saved = load_training_checkpoint(path)["modules"]["heads"]
        wanted = {key: rows for key, rows in saved.items() if config.DATASETS[int(key.partition(".")[0])].weight}
        load_full_state(heads, wanted, f"HEAD_RESUME = {path}")
    return heads


def head_shard(config: EmbeddingConfig) -> Shard:
    """Return the part of each head's classes that this process holds."""
    return Shard.of_this_process() if config.DIST_FC else WHOLE


def share_sizes(config: EmbeddingConfig) -> list[int]:
    """Return the number of images of each branch in this process's part of a batch."""
    return [data.batch_size // world_size() for data in config.DATASETS]


def margin_loss(config: EmbeddingConfig, heads: nn.ModuleList, embeddings: Tensor, labels: Tensor) -> Tensor:
    """Sum the branches' losses by weight; the batch holds the samples of one branch after those of another.

    Sharded heads see the embeddings of all processes, and each process computes the loss of the whole batch. It counts
    once, but the network's gradients are averaged over the processes afterwards: `scale_gradient` compensates.

    Shape: embeddings (B, D) and labels (B,), this process's -> ().
    """
    sizes, shards = share_sizes(config), head_shard(config).count
    softmax = softmax_loss(config.LOSS_NAME, shards)
    total = embeddings.new_zeros(())
    parts = zip(config.DATASETS, heads, embeddings.split(sizes), labels.split(sizes), strict=True)
    for data, head, embedding, label in parts:
        if not data.weight:
            continue
        if shards > 1:
            embedding, label = gather(scale_gradient(embedding, shards)), gather(label)
        assert isinstance(head, MarginHead)
        columns = head.columns(label)
        total = total + data.weight * softmax(head(embedding, label), columns)
    return total


def labels_over_branches(config: EmbeddingConfig, num_classes: Sequence[int], labels: Tensor) -> Tensor:
    """Offset labels (B,) so that identities of different branches differ; `num_classes`: identities of each."""
    firsts = [0, *accumulate(num_classes)][: len(num_classes)]
    branches = zip(firsts, labels.split(share_sizes(config)), strict=True)
    return torch.cat([label + first for first, label in branches])
