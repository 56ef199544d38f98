"""Client and server together, as one network."""

from __future__ import annotations

from torch import Tensor, nn

from torchkit.client import Client
from torchkit.server import CompensatedServer, CompensationSettings, Recogniser
from torchkit.server.compensation import PUBLISHED


class ProFaceC(nn.Module):
    """The system of the paper: a client and a frozen server with a compensation head.

    Shape: clear and obfuscated images (B, 3, 112, 112) uint8 RGB -> embeddings (B, D), unit length.
    """

    def __init__(self, client: Client, recogniser: Recogniser, compensation: CompensationSettings = PUBLISHED) -> None:
        super().__init__()
        self.client = client
        self.server = CompensatedServer(recogniser, compensation, client.feature_shapes)

    @property
    def recogniser(self) -> Recogniser:
        return self.server.recogniser

    def features(self, clear: Tensor, obfuscated: Tensor) -> list[Tensor]:
        """Compute what the client sends beside the obfuscated image: four maps (B, C_i, h_i, w_i)."""
        return self.client(self.client.prepare(clear, obfuscated))

    def forward(self, clear: Tensor, obfuscated: Tensor) -> Tensor:
        return self.server(obfuscated, self.features(clear, obfuscated))

    def trained_modules(self) -> dict[str, nn.Module]:
        """Return the modules that are trained, by their names in checkpoints."""
        return {"client": self.client, "compensation": self.server.compensation}
