"""The networks: IR and IR-SE (AdaFace's), MobileFaceNet (TFace's) and dlib's ResNet, by name."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from functools import partial

from torchkit.backbone.base import NUM_TAPS, Backbone, Shape, resize
from torchkit.backbone.dlib_resnet import DlibResNet
from torchkit.backbone.ir import IR
from torchkit.backbone.mobilefacenet import MobileFaceNet

BACKBONES: dict[str, Callable[..., Backbone]] = {
    "mobilefacenet": MobileFaceNet,
    "ir_18": partial(IR, "ir_18"),
    "ir_34": partial(IR, "ir_34"),
    "ir_50": partial(IR, "ir_50"),
    "ir_101": partial(IR, "ir_101"),
    "ir_152": partial(IR, "ir_152"),
    "ir_200": partial(IR, "ir_200"),
    "ir_se_50": partial(IR, "ir_50", se=True),
    "ir_se_101": partial(IR, "ir_101", se=True),
    "dlib_resnet": DlibResNet,
}


def canonical_name(name: str) -> str:
    """`name` as the registry spells it ("MobileFaceNet" -> "mobilefacenet", "IR_50" -> "ir_50").

    Raises:
        ValueError: no such backbone; the message lists what there is and the nearest.
    """
    lowered = name.lower()
    if lowered in BACKBONES:
        return lowered
    near = difflib.get_close_matches(lowered, BACKBONES, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    raise ValueError(f"unknown backbone {name!r}{hint} Known: {', '.join(sorted(BACKBONES))}")


def get_model(name: str, embedding_size: int | None = None) -> Backbone:
    """The backbone called `name`, with fresh weights.

    Args:
        name: a key of `BACKBONES`, case does not matter.
        embedding_size: length of the embedding; None: the network's own (512; dlib 128).
    """
    build = BACKBONES[canonical_name(name)]
    return build() if embedding_size is None else build(embedding_size=embedding_size)


__all__ = [
    "BACKBONES", "NUM_TAPS", "Backbone", "Shape", "canonical_name", "get_model", "resize",
]  # fmt: skip
