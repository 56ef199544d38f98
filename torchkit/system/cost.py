"""Measure what a client and its server cost for one face."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from torchkit.server import Recogniser
from torchkit.system.model import ProFaceC
from torchkit.util.cost import Cost, measure_cost
from torchkit.util.pixels import INPUT_SIZE_PX, to_batch

HEAVY_SHARE = 0.5
"""Share of the server's multiply-adds above which a client draws a warning."""


@dataclass(frozen=True)
class SystemCost:
    """Cost of either party for one face."""

    client: Cost
    """Cost of the client's network; with INPUT: difference its backbone runs twice, and counts twice."""
    server: Cost
    """Cost of the recogniser with its compensation."""

    @property
    def client_share(self) -> float:
        """The client's multiply-adds as a share of the server's."""
        return self.client.multiply_adds / self.server.multiply_adds

    def warning(self) -> str | None:
        """The warning for a client that does more than half of its server's work; None for a lighter one."""
        if self.client_share <= HEAVY_SHARE:
            return None
        return (
            f"the client costs {self.client_share:.0%} of its server ({self.client.multiply_adds / 1e6:,.1f} of "
            f"{self.server.multiply_adds / 1e6:,.1f} million multiply-adds a face), more than half: a device that can "
            "afford this can run a recogniser of its own and send 64 to 128 bytes of embedding. Compensation pays with "
            "a light client before a heavy server: take a smaller BACKBONE_NAME or a larger SERVER.NAME"
        )


def recogniser_cost(recogniser: Recogniser) -> Cost:
    """Measure what the recogniser costs by itself, on the CPU and in float32."""
    return measure_cost(copy.deepcopy(recogniser).cpu(), _noise(1))


def system_cost(system: ProFaceC) -> SystemCost:
    """Measure what client and server cost, on the CPU and in float32.

    The obfuscation and the coding of messages are not included, since they run no network.
    """
    system = copy.deepcopy(system).cpu().eval()  # what is measured must not change what is trained
    system.client.set_progress(1, 1)  # what is never sent in the end does not count
    clear, obfuscated = _noise(2).split(1)
    with torch.inference_mode():
        prepared = system.client.prepare(clear, obfuscated)
        features = system.client(prepared)
    return SystemCost(measure_cost(system.client, prepared), measure_cost(system.server, obfuscated, features))


def _noise(count: int) -> Tensor:
    """Return images (count, 3, 112, 112) uint8 of noise, the same in each call."""
    noise = np.random.default_rng(0).integers(0, 256, (count, INPUT_SIZE_PX, INPUT_SIZE_PX, 3), np.uint8)
    return to_batch(list(noise))
