"""The networks, by name: IR and IR-SE (AdaFace's), IResNet (InsightFace's), MobileFaceNet (TFace's), dlib's, timm's."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from functools import partial

from torchkit.backbone.base import NUM_TAPS, Backbone, Shape, resize
from torchkit.backbone.dlib_resnet import DlibResNet
from torchkit.backbone.ir import IR
from torchkit.backbone.iresnet import IResNet
from torchkit.backbone.mobilefacenet import MobileFaceNet
from torchkit.backbone.timm_network import PREFIX as TIMM_PREFIX
from torchkit.backbone.timm_network import TimmNetwork, check_timm_name

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
    "iresnet_18": partial(IResNet, "iresnet_18"),
    "iresnet_34": partial(IResNet, "iresnet_34"),
    "iresnet_50": partial(IResNet, "iresnet_50"),
    "iresnet_100": partial(IResNet, "iresnet_100"),
    "iresnet_200": partial(IResNet, "iresnet_200"),
    "dlib_resnet": DlibResNet,
}
"""Beside these there are timm's networks, as "timm/NAME"."""


def canonical_name(name: str) -> str:
    """`name` as the registry spells it ("MobileFaceNet" -> "mobilefacenet", "IR_50" -> "ir_50").

    Raises:
        ValueError: no such backbone; the message lists what there is and the nearest.
    """
    lowered = name.lower()
    if lowered in BACKBONES:
        return lowered
    if lowered.startswith(TIMM_PREFIX):
        check_timm_name(lowered)
        return lowered
    near = difflib.get_close_matches(lowered, BACKBONES, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    known = ", ".join(sorted(BACKBONES))
    raise ValueError(f"unknown backbone {name!r}{hint} Known: {known}, and {TIMM_PREFIX}NAME for timm's networks")


def get_model(name: str, embedding_size: int | None = None) -> Backbone:
    """The backbone called `name`, with fresh weights.

    Args:
        name: a key of `BACKBONES`, or "timm/" and the name of a network of timm's; case does not matter.
        embedding_size: length of the embedding; None: the network's own (512; dlib 128).
    """
    name = canonical_name(name)
    build: Callable[..., Backbone] = (
        partial(TimmNetwork, name.removeprefix(TIMM_PREFIX)) if name.startswith(TIMM_PREFIX) else BACKBONES[name]
    )
    return build() if embedding_size is None else build(embedding_size=embedding_size)


__all__ = [
    "BACKBONES", "NUM_TAPS", "TIMM_PREFIX", "Backbone", "Shape", "canonical_name", "get_model", "resize",
]  # fmt: skip
