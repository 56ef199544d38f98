"""Margin heads, by name."""

from torchkit.head.margin import ArcFace, CosFace, MarginHead

HEADS: dict[str, type[MarginHead]] = {"ArcFace": ArcFace, "CosFace": CosFace}

__all__ = ["HEADS", "ArcFace", "CosFace", "MarginHead"]
