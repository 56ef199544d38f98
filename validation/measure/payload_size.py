"""Count the bytes that the client sends for an image, on real messages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from validation.measure.conditions import Case, Subject
from validation.measure.evaluate import Computation, from_all

IMAGES = 128
"""Number of images of a set that are encoded; sizes differ little between images."""


@dataclass(frozen=True)
class PayloadSize:
    """Means over encoded messages, bytes."""

    message: float
    image: float
    """Of the obfuscated image."""
    features: float
    """Of all taps; the rest of the message is header and checksum."""

    def extras(self) -> dict[str, float]:
        """The entries of a row of results."""
        return {
            "payload_bytes": self.message, "payload_image_bytes": self.image, "payload_feature_bytes": self.features,
        }  # fmt: skip


class SizeCounter:
    """Encode the messages of up to `IMAGES` of `count` images, evenly spread, during an evaluation.

    Features are computed in float32, as a phone does. Where image and mirror image are fused, the client sends a
    message for each, and both are counted.
    """

    first: tuple[int, ...] = ()

    def __init__(self, count: int, computation: Computation) -> None:
        self.chosen = frozenset(np.linspace(0, count, min(IMAGES, count), endpoint=False).astype(int).tolist())
        self.device, self.flip = computation.device, computation.flip
        self.totals: dict[Case, np.ndarray] = {}

    def __call__(self, case: Case, positions: Sequence[int], subject: Subject) -> None:
        message_sizes = case.condition.message_sizes
        if message_sizes is None:
            return
        totals = self.totals.setdefault(case, np.zeros(3))
        chosen = [place for place, position in enumerate(positions) if position in self.chosen]
        if not chosen:
            return
        with torch.autocast(self.device.type, enabled=False):
            sent = subject.select(chosen)
            for message in [sent, sent.mirrored()] if self.flip else [sent]:
                totals += message_sizes(message).sum(axis=0)

    def mean_sizes(self, wanted: Sequence[Case]) -> dict[Case, PayloadSize]:
        """Average over all processes, in each of the cases that send messages; every process must call it."""
        sending = [case for case in wanted if case.condition.message_sizes is not None]
        means = {case: from_all(self.totals.get(case, np.zeros(3)), self.device) / len(self.chosen) for case in sending}
        return {case: PayloadSize(*map(float, mean)) for case, mean in means.items()}
