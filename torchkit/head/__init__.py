"""Margin heads, by name."""

from torchkit.head.adaface import AdaFace
from torchkit.head.base import MarginHead, NoHead
from torchkit.head.cifp import CIFP
from torchkit.head.curricularface import CurricularFace
from torchkit.head.margin import ArcFace, CosFace, NormFace, PartialFC
from torchkit.head.shard import WHOLE, Shard
from torchkit.head.state import full_state, load_full_state

HEADS: dict[str, type[MarginHead]] = {
    "ArcFace": ArcFace,
    "CosFace": CosFace,
    "NormFace": NormFace,
    "CurricularFace": CurricularFace,
    "AdaFace": AdaFace,
    "PartialFC": PartialFC,
    "CIFP": CIFP,
}

__all__ = [
    "CIFP",
    "HEADS",
    "WHOLE",
    "AdaFace",
    "ArcFace",
    "CosFace",
    "CurricularFace",
    "MarginHead",
    "NoHead",
    "NormFace",
    "PartialFC",
    "Shard",
    "full_state",
    "load_full_state",
]
