"""Modules of PyTorch with types."""

from __future__ import annotations

from typing import Any

from torch import nn


def typed_modules() -> Any:
    """A ModuleDict, whose items type checkers then know by the annotation of the attribute that it becomes."""
    return nn.ModuleDict()
