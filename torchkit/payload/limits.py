"""What a message may be at most, and the error for one that is not right."""

from __future__ import annotations

MAX_MESSAGE_BYTES = 4 * 2**20
MAX_TAPS = 8
MAX_CHANNELS = 4096
MAX_SIDE = 256
"""Of a feature map, in values."""
MAX_TAP_VALUES = 2**20
"""Of the full maps of all taps of a message together, pruned channels included."""
MAX_STEP = 2.0**120
"""The largest code, -128, times the step must stay a finite float32."""


class PayloadError(ValueError):
    """Bytes that are no message, or contents that no message may have."""
