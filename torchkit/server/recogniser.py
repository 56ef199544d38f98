"""Pre-trained recognisers: which there are, how their weights are read, what they are fed. Always frozen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor, nn

from torchkit.backbone import NUM_TAPS, canonical_name, get_model
from torchkit.backbone.dlib_resnet import read_dlib_weights
from torchkit.server.fold import fold_batch_norms
from torchkit.util.checkpoint import load_state, load_weights_file, state_dict_of
from torchkit.util.pixels import CHANNEL_ORDERS, network_input


def _read_torch_weights(path: Path) -> dict[str, Tensor]:
    return state_dict_of(load_weights_file(path, "server checkpoint"), path)


@dataclass(frozen=True)
class RecogniserKind:
    """How the published weights of a recogniser are read and what they expect."""

    channel_order: str
    """Colour order that the weights were trained with."""
    source: str
    """Whose weights they are."""
    read_weights: Callable[[Path], dict[str, Tensor]] = _read_torch_weights


_ADAFACE = RecogniserKind("bgr", "AdaFace")
RECOGNISERS: dict[str, RecogniserKind] = {
    "ir_18": _ADAFACE,
    "ir_34": _ADAFACE,
    "ir_50": _ADAFACE,
    "ir_101": _ADAFACE,
    "ir_152": _ADAFACE,
    "ir_200": _ADAFACE,
    "ir_se_50": _ADAFACE,
    "ir_se_101": _ADAFACE,
    "mobilefacenet": RecogniserKind("bgr", "TFace"),
    "dlib_resnet": RecogniserKind("rgb", "dlib", read_dlib_weights),
}


class Recogniser(nn.Module):
    """A frozen face network that turns pictures into unit embeddings.

    Args:
        name: a key of `RECOGNISERS`.
        channel_order: "rgb", "bgr", or "auto" for that of the published weights.

    Shape: (B, 3, 112, 112) uint8 RGB -> (B, D), unit length.
    """

    def __init__(self, name: str, channel_order: str = "auto") -> None:
        super().__init__()
        self.name = canonical_name(name)
        self.channel_order = RECOGNISERS[self.name].channel_order if channel_order == "auto" else channel_order
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

    def trace(self, images: Tensor) -> tuple[list[Tensor], Tensor]:
        """The maps (B, C_i, H_i, W_i) at the four taps, and the embedding (B, D), unit length."""
        maps = self.backbone.taps(self.prepare(images))
        return maps, F.normalize(self.backbone.run_segment(NUM_TAPS, maps[-1]).float())

    def forward(self, images: Tensor) -> Tensor:
        return self.trace(images)[1]


def load_recogniser(name: str, checkpoint: Path, channel_order: str = "auto") -> Recogniser:
    """A recogniser with its weights.

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
    state = RECOGNISERS[recogniser.name].read_weights(checkpoint)
    load_state(recogniser.backbone, state, f"server checkpoint {checkpoint} for {recogniser.name}")
    fold_batch_norms(recogniser.backbone)
    return recogniser
