"""What each of two processes does in tests/test_head_processes.py, and one process alone does as well."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from torchkit.head import HEADS, MarginHead, Shard, full_state
from torchkit.loss import sharded_cross_entropy, softmax_loss
from torchkit.util import distributed

PROCESSES = 2
CLASSES, SIZE, BATCH, FIRST_PART, STEPS = 11, 4, 9, 5, 3
INPUTS = 6
VARIANTS: dict[str, tuple[str, dict[str, float]]] = {
    **{name: (name, {}) for name in HEADS},
    **{f"{name} sampled": (name, {"sample_rate": 0.5}) for name in HEADS},
}
Results = dict[str, Any]


def one_part(x: Tensor) -> Tensor:
    """This process's part of a batch; parts are of unequal size."""
    if distributed.world_size() == 1:
        return x
    return (x[:FIRST_PART], x[FIRST_PART:])[distributed.rank()]


def batch(step: int) -> tuple[Tensor, Tensor]:
    """Embeddings (B, D), each somewhat like those of its class; labels (B,)."""
    generator = torch.Generator().manual_seed(step)
    directions = torch.randn(CLASSES, SIZE, generator=torch.Generator().manual_seed(99))
    labels = torch.randint(CLASSES, (BATCH,), generator=generator)
    return 5 * (directions[labels] + torch.randn(BATCH, SIZE, generator=generator)), labels


def make_head(variant: str, shard: Shard) -> MarginHead:
    torch.manual_seed(3)
    name, options = VARIANTS[variant]
    return HEADS[name](SIZE, CLASSES, 16.0, 0.3, shard, **options)


def sharded_run(variant: str) -> Results:
    """A few steps of a head over all processes: what it computes, and where it ends."""
    head = make_head(variant, Shard.of_this_process())
    loss_of = softmax_loss("DistCrossEntropy", head.shard.count)
    steps = []
    for step in range(STEPS):
        embeddings, labels = map(one_part, batch(step))
        embeddings.requires_grad_()
        everyone = distributed.gather(labels)
        logits = head(distributed.gather(embeddings), everyone)
        loss = loss_of(logits, head.columns(everyone))
        head.zero_grad()
        loss.backward()
        steps.append({"logits": logits.detach(), "loss": loss.item(), "embeddings": embeddings.grad})
        steps[-1]["weight"] = head.all_rows(head.weight.grad)
        head.weight.data -= 0.05 * head.weight.grad
    return {"steps": steps, "state": full_state(head)}


def whole_run(variant: str) -> Results:
    """Logits of heads that every process holds whole (DIST_FC: false), for its part of the batch."""
    head = make_head(variant, Shard())
    embeddings, labels = map(one_part, batch(0))
    logits = head(embeddings, labels).detach()
    return {"logits": logits, "state": head.state_dict()}


def averaged_run() -> Results:
    """Gradients of a network that all processes hold, averaged over them as DistributedDataParallel does."""
    head = make_head("ArcFace", Shard.of_this_process())
    network = torch.randn(INPUTS, SIZE, generator=torch.Generator().manual_seed(5)).requires_grad_()
    inputs = one_part(torch.randn(BATCH, INPUTS, generator=torch.Generator().manual_seed(6)))
    everyone = distributed.gather(one_part(batch(0)[1]))
    embeddings = distributed.scale_gradient(inputs @ network, distributed.world_size())
    logits = head(distributed.gather(embeddings), everyone)
    softmax_loss("DistCrossEntropy", head.shard.count)(logits, head.columns(everyone)).backward()
    assert network.grad is not None
    return {"network": distributed.reduce_sum(network.grad) / distributed.world_size()}


def extreme_losses() -> list[Results]:
    """The softmax where numbers are large, and where one process has all that counts."""
    results = []
    rows = Shard.of_this_process().rows(CLASSES)
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        size = (1.0, 64.0, 1e4)[seed % 3]
        whole = size * torch.randn(BATCH, CLASSES, generator=generator) + torch.linspace(-1, 1, CLASSES) * size * 5
        labels = torch.randint(CLASSES, (BATCH,), generator=generator)
        logits = whole[:, rows.start : rows.stop].clone().requires_grad_()
        columns = torch.where((labels >= rows.start) & (labels < rows.stop), labels - rows.start, -1)
        value = sharded_cross_entropy(logits, columns)
        value.backward()
        results.append({"loss": value.item(), "gradient": logits.grad})
    return results


def primitives() -> Results:
    """Each collective with a number that tells the processes apart."""
    rank = distributed.rank()
    x = (10 * rank + torch.arange(6.0).reshape(2, 3))[: 2 - rank].requires_grad_()  # two rows here, one there
    gathered = distributed.gather(x)
    (gathered * torch.arange(1.0, 10.0).reshape(3, 3) * (rank + 1)).sum().backward()
    y = torch.tensor([1.0, 5.0 - 4 * rank], requires_grad=True)
    total = distributed.reduce_sum(y)
    (total * torch.tensor([3.0, 7.0])).sum().backward()
    return {
        "rank": (distributed.rank(), distributed.world_size(), distributed.is_main()),
        "gathered": gathered.detach(),
        "gather gradient": x.grad,
        "integers": distributed.gather(torch.tensor([rank, rank + 5])),
        "sum": total.detach(),
        "sum gradient": y.grad,
        "maximum": distributed.reduce_max(y),
        "needs gradient": (gathered.requires_grad, distributed.gather(x.detach()).requires_grad),
    }


def everything() -> Results:
    return {
        "sharded": {variant: sharded_run(variant) for variant in VARIANTS},
        "whole": {variant: whole_run(variant) for variant in HEADS},
        "averaged": averaged_run(),
        "extreme": extreme_losses(),
    }


def process(rank: int, folder: str) -> None:
    """Entry of a spawned process: leaves its results in folder/rank.pt."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=PROCESSES)
    try:
        torch.save({**everything(), "primitives": primitives()}, Path(folder) / f"{rank}.pt")
    finally:
        dist.destroy_process_group()
