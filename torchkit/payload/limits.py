"""Limits of messages, and the error for a message that is malformed or beyond them."""

from __future__ import annotations

MAX_MESSAGE_BYTES = 4 * 2**20
MAX_TAPS = 8
MAX_CHANNELS = 4096
MAX_SIDE = 256
"""Longest side of a feature map, in values."""
MAX_TAP_VALUES = 2**20
"""Most values of the full maps of all taps of a message together, pruned channels included."""
MAX_STEP = 2.0**120
"""The largest code, -128, times the step must stay a finite float32."""


class PayloadError(ValueError):
    """Bytes that are not a message, or contents that a message cannot have."""
