"""Store many strings in two arrays."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from itertools import accumulate

import numpy as np

ENCODING = ("utf-8", "surrogateescape")  # file names need not be UTF-8


class PackedStrings:
    """Strings in two arrays: eight bytes more than the text of each, and no copies in forked workers.

    Args:
        data: (total bytes,) uint8, the strings one after the other in UTF-8.
        ends: (N,) uint64, where each ends in `data`.
    """

    def __init__(self, data: np.ndarray, ends: np.ndarray) -> None:
        self.data, self.ends = data, ends

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, position: int) -> str:
        if not 0 <= position < len(self):
            raise IndexError(position)
        start = int(self.ends[position - 1]) if position else 0
        return self.data[start : int(self.ends[position])].tobytes().decode(*ENCODING)

    def __iter__(self) -> Iterator[str]:
        return map(self.__getitem__, range(len(self)))


class StringPacker:
    """Collects strings one by one."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._ends = array("Q")

    def append(self, text: str) -> None:
        self._data += text.encode(*ENCODING)
        self._ends.append(len(self._data))

    def extend(self, encoded: Sequence[bytes]) -> None:
        """Append strings in UTF-8."""
        lengths = accumulate(map(len, encoded), initial=len(self._data))
        next(lengths)
        self._ends.extend(lengths)
        self._data += b"".join(encoded)

    def pack(self) -> PackedStrings:
        return PackedStrings(np.frombuffer(self._data, np.uint8), np.frombuffer(self._ends, np.uint64))
