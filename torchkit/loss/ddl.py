"""Distribution distillation: Huang et al., Improving Face Recognition from Hard Samples via Distribution Distillation
Loss, ECCV 2020 (arXiv 2002.03662)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

POSITIVE_WEIGHT, NEGATIVE_WEIGHT, ORDER_WEIGHT = 0.1, 0.02, 0.5  # the paper's lambda_1, lambda_2, lambda_3
NODES = 201  # of the histograms, from -1 to 1
KERNEL_STD = 0.1  # of the Gaussian that spreads a similarity over the nodes


@dataclass(frozen=True)
class Similarities:
    """Cosines within a batch; either may be empty."""

    positive: Tensor
    """(P,) of every two embeddings of one identity."""
    negative: Tensor
    """(N,) of each embedding to the most similar one of another identity."""


def distribution_distillation(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    """Pull the student's distributions of similarities to the teacher's, and positives away from negatives.

    lambda_1 KL(T+ || S+) + lambda_2 KL(T- || S-) + lambda_3 sum_ij (E[i-] - E[j+]), i and j running over T and S.
    T and S are histograms of the teacher's and the student's similarities, + of pairs of one identity, - of hardest
    negatives. The last term, the order loss, can be negative. A batch without pairs of one identity has no positives,
    and one with a single identity has no negatives: the terms that need them are 0. Gradients reach the student alone.

    Shape: student (B, D), teacher (B, D) of any length, labels (B,) -> ().
    """
    with torch.autocast(student.device.type, enabled=False):
        hard, easy = similarities(student.float(), labels), similarities(teacher.detach().float(), labels)
        loss = student.new_zeros((), dtype=torch.float32)
        if len(hard.positive):
            loss = loss + POSITIVE_WEIGHT * _divergence(easy.positive, hard.positive)
        if len(hard.negative):
            loss = loss + NEGATIVE_WEIGHT * _divergence(easy.negative, hard.negative)
        if len(hard.positive) and len(hard.negative):
            loss = loss + ORDER_WEIGHT * _order([easy, hard])
        return loss


def similarities(embeddings: Tensor, labels: Tensor) -> Similarities:
    """(B, D), (B,) -> cosines of its positive pairs and hardest negatives."""
    units = F.normalize(embeddings)
    cosines = units @ units.T  # (B, B)
    same = labels[:, None] == labels[None]
    negative = cosines.masked_fill(same, -torch.inf).amax(dim=1)
    return Similarities(cosines[same.triu(diagonal=1)], negative[~same.all(dim=1)])


def log_histogram(values: Tensor) -> Tensor:
    """(P,) similarities in -1..1 -> logarithm of their share at each node, (NODES,): differentiable, never -inf."""
    nodes = torch.linspace(-1, 1, NODES, device=values.device)
    distance = (values[:, None] - nodes) / KERNEL_STD  # (P, NODES)
    return (-0.5 * distance.square()).logsumexp(dim=0).log_softmax(dim=0)


def _divergence(teacher: Tensor, student: Tensor) -> Tensor:
    return F.kl_div(log_histogram(student), log_histogram(teacher), reduction="sum", log_target=True)


def _order(networks: list[Similarities]) -> Tensor:
    return torch.stack([i.negative.mean() - j.positive.mean() for i in networks for j in networks]).sum()
