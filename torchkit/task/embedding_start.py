"""Where the embedding that a client sends starts: at the best linear map from its network's to the server's."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from torchkit.system import ProFaceC
from torchkit.util.ridge import fit_ridge

RELATIVE_PENALTY = 0.1
"""Of ridge regression, as a share of the mean eigenvalue of the inputs' covariance."""


@torch.no_grad()
def start_embedding(system: ProFaceC, batches: Iterable[Tensor]) -> None:
    """Fit the embedding interface to the server's embeddings of clear images; the server's own counts nothing at first.

    Args:
        system: its client sends an embedding of the clear image.
        batches: clear images (B, 3, 112, 112) uint8 RGB, on the system's device.
    """
    client = system.client
    was_training = client.training
    client.eval()
    pairs = [(client.embedding(client.prepare(clear, clear)), system.recogniser(clear)) for clear in batches]
    client.train(was_training)
    weight, bias = ridge(*(torch.cat(embeddings).double() for embeddings in zip(*pairs, strict=True)))
    client.embedding_interface.weight.copy_(weight)
    client.embedding_interface.bias.copy_(bias)
    system.server.compensation.own_embedding_weights.zero_()


def ridge(inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Weight (E, D) and bias (E,) of the linear map from inputs (N, D) to targets (N, E) by ridge regression."""
    mean_eigenvalue = (inputs - inputs.mean(0)).square().sum(0).mean().item()
    fitted = fit_ridge(inputs, targets, RELATIVE_PENALTY * mean_eigenvalue)
    return fitted.weight.T, fitted.bias
