"""How often each code of a tap occurs: what the range coder of messages has to know."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from torchkit.backbone import Shape
from torchkit.payload import FREQUENCY_TOTAL

MAX_ELEMENTWISE = 2**18
"""Numbers of a table at most that has a row for each value of a map; beyond, there is one for each channel."""
PRIOR_COUNT = 16
"""How many observations the codes of the whole channel, or of all channels, count for beside those of a row."""


class FrequencyTable(nn.Module):
    """Frequencies of the codes of one tap; they belong to the client and its file.

    Where that takes no more than MAX_ELEMENTWISE numbers, each value of the map has its own: the middle of a face is
    coded otherwise than its border.

    Args:
        shape: (C, h, w) of the tap's features.
        bits: of a code.
    """

    table: Tensor
    """(C, h * w or 1, 2**bits) int32, each at least 1, a row FREQUENCY_TOTAL together."""

    def __init__(self, shape: Shape, bits: int) -> None:
        super().__init__()
        channels, height, width = shape
        symbols = 2**bits
        groups = height * width if channels * height * width * symbols <= MAX_ELEMENTWISE else 1
        uniform = torch.full((channels, groups, symbols), FREQUENCY_TOTAL // symbols, dtype=torch.int32)
        self.register_buffer("table", uniform)

    def set_counts(self, counts: Tensor) -> None:
        """Set the frequencies by how often each code occurred.

        Args:
            counts: (C, h * w, 2**bits) whole numbers.
        """
        counts = counts.double()
        channel = counts.sum(1, keepdim=True)  # (C, 1, S)
        everywhere = channel.sum(0, keepdim=True) + 1  # (1, 1, S)
        channel = channel + PRIOR_COUNT * _shares(everywhere)
        rows = channel if self.table.shape[1] == 1 else counts + PRIOR_COUNT * _shares(channel)
        self.table.copy_(torch.from_numpy(whole_frequencies(_shares(rows).cpu().numpy())))


def _shares(counts: Tensor) -> Tensor:
    return counts / counts.sum(-1, keepdim=True)


def whole_frequencies(shares: np.ndarray) -> np.ndarray:
    """Shares (..., S) that add up to 1 -> whole numbers (..., S) int32, at least 1, that add up to FREQUENCY_TOTAL.

    What rounding down leaves goes to the most frequent.
    """
    symbols = shares.shape[-1]
    whole = 1 + np.floor(shares * (FREQUENCY_TOTAL - symbols)).astype(np.int32)
    rest = FREQUENCY_TOTAL - whole.sum(-1, keepdims=True)
    most = whole.argmax(-1)[..., None]
    np.put_along_axis(whole, most, np.take_along_axis(whole, most, -1) + rest, -1)
    return whole
