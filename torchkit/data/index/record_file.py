"""Read files at offsets, from any number of processes at once."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path

OPEN_FILES = 64
"""Most files that a process keeps open: sets may have more shards than the system allows."""
MAX_RECORD_BYTES = 1 << 24
"""More than any image of 112x112 pixels takes."""


class RecordFile:
    """A file of records.

    It is opened when it is first read. A forked worker may keep using the descriptor of its parent: reads take an
    offset and move no shared position.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def size(self, name: str) -> int:
        """Return the number of bytes of the file.

        Raises:
            FileNotFoundError: it cannot be read; the message begins with `name`.
        """
        try:
            return self.path.stat().st_size
        except OSError as error:
            raise _unreadable(self.path, name, error) from None

    def read(self, offset: int, count: int, name: str) -> bytes:
        """Read `count` bytes from `offset` on.

        Raises:
            FileNotFoundError: the file cannot be read; the message begins with `name`.
            ValueError: it ends before.
        """
        parts, missing = [], count
        try:
            descriptor = _descriptor(self).number
            while missing and (part := os.pread(descriptor, missing, offset + count - missing)):
                parts.append(part)
                missing -= len(part)
        except OSError as error:
            raise _unreadable(self.path, name, error) from None
        if missing:
            raise ValueError(
                f"{name}: the file ends at byte {offset + count - missing}, but the record goes on to byte "
                f"{offset + count} at least; the file is cut off or the offset wrong: copy it again"
            )
        return b"".join(parts)


class _Descriptor:
    def __init__(self, path: Path) -> None:
        self.number = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self) -> None:
        if hasattr(self, "number"):
            os.close(self.number)


@lru_cache(maxsize=OPEN_FILES)
def _descriptor(file: RecordFile) -> _Descriptor:
    return _Descriptor(file.path)


def _unreadable(path: Path, name: str, error: OSError) -> FileNotFoundError:
    return FileNotFoundError(f"{name} cannot be read: {error.strerror}: {path}")
