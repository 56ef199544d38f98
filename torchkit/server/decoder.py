"""From payloads to embeddings: what the server does."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from torchkit.backbone import Shape
from torchkit.payload import Coding, Payload, PayloadError, decode
from torchkit.server.compensation import CompensatedServer
from torchkit.util.pixels import to_batch


class Decoder:
    """Embeds payloads of the client that a server was trained with.

    Args:
        server: switched to evaluation.
        feature_shapes: (C, h, w) of that client's features.
        fingerprint: of that client.
        coding: of its messages of version 2; None: it writes none.
    """

    def __init__(
        self, server: CompensatedServer, feature_shapes: Sequence[Shape], fingerprint: bytes,
        coding: Coding | None = None,
    ) -> None:  # fmt: skip
        self.server = server.eval()
        self.feature_shapes = [tuple(shape) for shape in feature_shapes]
        self.fingerprint = fingerprint
        self.coding = coding

    @torch.inference_mode()
    def __call__(self, payloads: Sequence[Payload]) -> np.ndarray:
        """(B, D) float32 embeddings, unit length.

        Raises:
            PayloadError: a message of another client.
        """
        for payload in payloads:
            self.check(payload)
        device = next(self.server.parameters()).device
        images = to_batch([payload.image.pixels for payload in payloads])
        features = [tap.to(device) for tap in features_of(payloads)]
        return self.server(images.to(device), features).cpu().numpy()

    def read(self, data: bytes) -> Payload:
        """A message of unknown origin.

        Raises:
            PayloadError: no message, or one of another client.
        """
        payload = decode(data, self.coding)
        self.check(payload)
        return payload

    def check(self, payload: Payload) -> None:
        """Raises PayloadError: a message of another client."""
        if payload.fingerprint != self.fingerprint:
            raise PayloadError(
                f"the message is of client {payload.fingerprint.hex()}, this server understands client "
                f"{self.fingerprint.hex()}; take the server file that was exported together with the client"
            )
        shapes = [tap.shape for tap in payload.taps]
        if shapes != self.feature_shapes:
            raise PayloadError(f"features of shapes {shapes}: this server expects {self.feature_shapes}")


def features_of(payloads: Sequence[Payload]) -> list[Tensor]:
    """The features of several messages as the client computed them: four maps (B, C_i, h_i, w_i) float32."""
    taps = zip(*(payload.taps for payload in payloads), strict=True)
    return [torch.from_numpy(np.stack([tap.values() for tap in of_all])) for of_all in taps]
