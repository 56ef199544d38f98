"""The contents of client files, this project's and published ones."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from torchkit.client import ClientSettings
from torchkit.server import CompensationSettings
from torchkit.server.compensation import PUBLISHED


@dataclass(frozen=True)
class ServerReference:
    """Name and weights of a client's server."""

    name: str | None
    """Name of its network; None: not in the file (published weights)."""
    checkpoint: Path | None
    """Path of its weights when the client was trained."""
    channel_order: str = "auto"


@dataclass(frozen=True)
class ClientFile:
    """Contents of a client file."""

    settings: ClientSettings
    client: dict[str, Tensor]
    compensation: dict[str, Tensor]
    """Empty in a file for a phone."""
    server: ServerReference
    compensation_settings: CompensationSettings = PUBLISHED
    """How the server uses the features."""
    trained_steps: int = 0
