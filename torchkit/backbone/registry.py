"""The registry of networks with the facts of their published weights: a new network needs one entry, no more."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from torch import Tensor

from torchkit.backbone.base import Backbone
from torchkit.backbone.dlib_resnet import DlibResNet, read_dlib_weights
from torchkit.backbone.ir import IR
from torchkit.backbone.iresnet import IResNet
from torchkit.backbone.mobilefacenet import MobileFaceNet
from torchkit.backbone.recogniser_file import RecogniserWeights, read_recogniser_weights
from torchkit.backbone.strided_encoder import StridedEncoder
from torchkit.backbone.timm_network import PREFIX as TIMM_PREFIX
from torchkit.backbone.timm_network import TimmNetwork, check_timm_name


@dataclass(frozen=True)
class Network:
    """A network that can be a client's backbone and a recogniser."""

    build: Callable[..., Backbone]
    """Builds the network with fresh weights; takes `embedding_size`."""
    source: str
    """Who published weights for it."""
    channel_order: str
    """Colour order that these weights were trained with."""
    read: Callable[[Path], RecogniserWeights] = read_recogniser_weights
    """Reads a file of weights."""
    default_checkpoint: str | None = None
    """File under model/ that is used where none is given."""
    is_trainable: bool = True

    def read_weights(self, path: Path) -> dict[str, Tensor]:
        """Read the state dict of a weight file."""
        return self.read(path).state


def _read_dlib(path: Path) -> RecogniserWeights:
    return RecogniserWeights(read_dlib_weights(path))


def _adaface(depth: str, se: bool = False, checkpoint: str | None = None) -> Network:
    return Network(partial(IR, depth, se=se), "AdaFace", "bgr", default_checkpoint=checkpoint)


def _insightface(depth: str) -> Network:
    # arcface_torch's loader decodes to RGB, and its inference converts what OpenCV reads.
    return Network(partial(IResNet, depth), "InsightFace", "rgb")


NETWORKS: dict[str, Network] = {
    "mobilefacenet": Network(MobileFaceNet, "TFace", "bgr"),
    "mobilefacenet_w050": Network(partial(MobileFaceNet, width=0.5), "train.py", "rgb"),
    "mobilefacenet_w025": Network(partial(MobileFaceNet, width=0.25), "train.py", "rgb"),
    "ir_18": _adaface("ir_18"),
    "ir_34": _adaface("ir_34"),
    "ir_50": _adaface("ir_50", checkpoint="adaface_ir50_webface4m.ckpt"),
    "ir_101": _adaface("ir_101", checkpoint="adaface_ir101_webface12m.ckpt"),
    "ir_152": _adaface("ir_152"),
    "ir_200": _adaface("ir_200"),
    "ir_se_50": _adaface("ir_50", se=True),
    "ir_se_101": _adaface("ir_101", se=True),
    "iresnet_18": _insightface("iresnet_18"),
    "iresnet_34": _insightface("iresnet_34"),
    "iresnet_50": _insightface("iresnet_50"),
    "iresnet_100": _insightface("iresnet_100"),
    "iresnet_200": _insightface("iresnet_200"),
    # its batch norms are folded away
    "dlib_resnet": Network(DlibResNet, "dlib", "rgb", read=_read_dlib, is_trainable=False),
    "strided_encoder": Network(StridedEncoder, "train.py", "rgb"),
}
"""The networks by name. timm's networks are available too, as "timm/NAME"."""


def canonical_name(name: str) -> str:
    """Return `name` as the registry spells it ("MobileFaceNet" -> "mobilefacenet", "IR_50" -> "ir_50").

    Raises:
        ValueError: no such backbone; the message lists the names and the nearest one.
    """
    lowered = name.lower()
    if lowered in NETWORKS:
        return lowered
    if lowered.startswith(TIMM_PREFIX):
        check_timm_name(lowered)
        return lowered
    near = difflib.get_close_matches(lowered, NETWORKS, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    known = ", ".join(sorted(NETWORKS))
    raise ValueError(f"unknown backbone {name!r}{hint} Known: {known}, and {TIMM_PREFIX}NAME for timm's networks")


def find_network(name: str) -> Network:
    """Return the entry called `name`; for one of timm's networks, an entry for weights that were trained here.

    Raises:
        ValueError: as `canonical_name`.
    """
    name = canonical_name(name)
    if name.startswith(TIMM_PREFIX):
        return Network(partial(TimmNetwork, name.removeprefix(TIMM_PREFIX)), "train.py", "rgb")
    return NETWORKS[name]


def get_model(name: str, embedding_size: int | None = None) -> Backbone:
    """Build the backbone called `name`, with fresh weights.

    Args:
        name: a key of `NETWORKS`, or "timm/" and one of timm's names; case does not matter.
        embedding_size: length of the embedding; None: the network's own (512; dlib 128).
    """
    build = find_network(name).build
    return build() if embedding_size is None else build(embedding_size=embedding_size)
