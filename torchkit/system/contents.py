"""What client files hold, whoever wrote them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from torchkit.client import ClientSettings
from torchkit.server import CompensationSettings
from torchkit.server.compensation import PUBLISHED


@dataclass(frozen=True)
class ServerReference:
    """How the server of a client was called."""

    name: str | None
    """Name of a network; None: the file does not say (published weights)."""
    checkpoint: Path | None
    """Where its weights lay when the client was trained."""
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
