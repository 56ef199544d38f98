"""Read bytes in order, never beyond their end."""

from __future__ import annotations

import struct
from typing import Any

from torchkit.payload.limits import PayloadError


class Reader:
    """Bytes, and the position of the next one to read."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.position = 0
        """Number of bytes read."""

    @property
    def remaining(self) -> int:
        """Number of bytes not read yet."""
        return len(self._data) - self.position

    def take(self, size: int) -> bytes:
        """Read the next `size` bytes.

        Raises:
            PayloadError: there are fewer.
        """
        if size > self.remaining:
            raise PayloadError(f"the message is cut short: {size} bytes expected, {self.remaining} are left")
        start = self.position
        self.position += size
        return self._data[start : self.position]

    def unpack(self, layout: struct.Struct) -> tuple[Any, ...]:
        """Read the next fields of `layout`; raises like `take`."""
        return layout.unpack(self.take(layout.size))
