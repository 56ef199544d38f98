"""PyTorch modules for type checkers."""

from __future__ import annotations

from typing import Any

from torch import nn


def typed_modules() -> Any:
    """Return an empty ModuleDict as Any: the annotation of the attribute that it is assigned to types its items."""
    return nn.ModuleDict()
