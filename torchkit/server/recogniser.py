"""Pre-trained recognisers, always frozen."""

from __future__ import annotations

from pathlib import Path

import torch.nn.functional as F
from torch import Tensor, nn

from torchkit.backbone import NUM_TAPS, canonical_name, find_network, get_model
from torchkit.server.fold import fold_batch_norms
from torchkit.util.pixels import CHANNEL_ORDERS, network_input
from torchkit.util.weights import load_state


class Recogniser(nn.Module):
    """A frozen face network that turns images into unit embeddings.

    Args:
        name: a key of torchkit.backbone.NETWORKS, or "timm/NAME".
        channel_order: "rgb", "bgr", or "auto" for that of the published weights.

    Shape: (B, 3, 112, 112) uint8 RGB -> (B, D), unit length.
    """

    def __init__(self, name: str, channel_order: str = "auto") -> None:
        super().__init__()
        self.name = canonical_name(name)
        self.channel_order = find_network(self.name).channel_order if channel_order == "auto" else channel_order
        if self.channel_order not in CHANNEL_ORDERS:
            raise ValueError(f"channel order {channel_order!r}: allowed are auto, {', '.join(CHANNEL_ORDERS)}")
        self.backbone = get_model(self.name)
        self.requires_grad_(False)
        self.eval()

    @property
    def embedding_size(self) -> int:
        return self.backbone.embedding_size

    def train(self, mode: bool = True) -> Recogniser:
        """Stays in evaluation mode: a frozen recogniser neither drops out nor updates its batch norms."""
        return super().train(False)

    def prepare(self, images: Tensor) -> Tensor:
        """(B, 3, 112, 112) uint8 RGB -> the backbone's input."""
        return network_input(images, self.channel_order)

    def forward_intermediates(self, images: Tensor) -> tuple[list[Tensor], Tensor]:
        """The maps (B, C_i, H_i, W_i) at the four taps, and the embedding (B, D), not normalised."""
        maps = self.backbone.taps(self.prepare(images))
        return maps, self.backbone.run_segment(NUM_TAPS, maps[-1]).float()

    def forward(self, images: Tensor) -> Tensor:
        return F.normalize(self.forward_intermediates(images)[1])


def load_recogniser(name: str, checkpoint: Path, channel_order: str = "auto") -> Recogniser:
    """A recogniser with its weights.

    Args:
        name: a key of torchkit.backbone.NETWORKS, or "timm/NAME".
        checkpoint: its weights.
        channel_order: "rgb", "bgr", or "auto" for what the file says, else that of the published weights.

    Raises:
        FileNotFoundError: no such checkpoint.
        ValueError: an unknown name, or a checkpoint that cannot be read, is not safe or does not fit.
    """
    recogniser = Recogniser(name, channel_order)
    if not checkpoint.is_file():
        raise FileNotFoundError(
            f"server checkpoint not found: {checkpoint}; model/README.md says where to get the weights of "
            f"{recogniser.name}, or give another with SERVER.CHECKPOINT (training) or --server-checkpoint (validation)"
        )
    weights = find_network(recogniser.name).read(checkpoint)
    if weights.network not in (None, recogniser.name):
        raise ValueError(
            f"server checkpoint {checkpoint} is of {weights.network}, but {recogniser.name} is asked for; "
            f"set SERVER.NAME (training) or --server (validation) to {weights.network}"
        )
    load_state(recogniser.backbone, weights.state, f"server checkpoint {checkpoint} for {recogniser.name}")
    if channel_order == "auto" and weights.channel_order is not None:
        recogniser.channel_order = weights.channel_order
    fold_batch_norms(recogniser.backbone)
    return recogniser
