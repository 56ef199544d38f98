"""Read InsightFace's packages: `NAME.bin`, a pickle of (N encoded images, N/2 bools), decoded to RGB."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from torchkit.data.images import is_cut_off
from torchkit.data.problems import Report, attempt, stop
from torchkit.data.validation_set.base import (
    DOWNLOAD_AGAIN,
    DistinctImages,
    ValidationSet,
    check_pair_count,
    check_same,
    rows_bar,
)
from torchkit.data.validation_set.unpickler import ByteArray, DataUnpickler
from torchkit.util.pixels import decode_rgb


def load_bin(root: Path, name: str, report: Report = stop) -> ValidationSet | None:
    """Read NAME.bin; None if a problem was reported.

    Raises:
        ValueError: the file does not hold two lists of matching lengths.
    """
    path = root / f"{name}.bin"
    entries, flags = _read_bin(path)
    check_pair_count(str(path), len(entries), DOWNLOAD_AGAIN)
    same = attempt(report, lambda: _same(flags, path, len(entries)))
    distinct = DistinctImages(len(entries), path)
    decoded: dict[bytes, int] = {}  # row of an encoded image: repeated images are decoded once
    with rows_bar(len(entries), f"reading {path.name}") as bar:
        for row, entry in enumerate(entries):
            try:
                encoded = _encoded_bytes(entry, path, row)
                if encoded in decoded:
                    distinct.rows[row] = distinct.rows[decoded[encoded]]
                else:
                    distinct.set(row, _decode_image(encoded, path, row))
                    decoded[encoded] = row
            except ValueError as error:
                report(error)
            bar.update()
    return distinct.make_set(name, same)


def _read_bin(path: Path) -> tuple[list[Any], list[Any]]:
    try:
        content = DataUnpickler(path.read_bytes()).load()
    except Exception as error:  # a damaged or hostile pickle can raise nearly anything
        raise ValueError(f"{path} is not read: {error or type(error).__name__}; {DOWNLOAD_AGAIN}") from error
    parts = content if isinstance(content, list | tuple) else ()
    if len(parts) != 2 or not all(isinstance(part, list | tuple) for part in parts):
        kind = f"a {type(content).__name__} of other content"
        raise ValueError(f"{path} holds {kind}, expected (list of images, list of bools): {DOWNLOAD_AGAIN}")
    return list(parts[0]), list(parts[1])


def _same(flags: list[Any], path: Path, row_count: int) -> np.ndarray:
    if not all(isinstance(flag, int) and flag in (0, 1) for flag in flags):
        raise ValueError(f"{path}: the list of pairs holds something else than bools: {DOWNLOAD_AGAIN}")
    same = np.array(flags, dtype=bool)
    check_same(str(path), same, row_count)
    return same


def _encoded_bytes(entry: Any, path: Path, row: int) -> bytes:
    encoded = entry.to_bytes() if isinstance(entry, ByteArray) else entry
    if not isinstance(encoded, bytes):
        kind = "array of another type" if isinstance(entry, ByteArray) else type(entry).__name__
        raise ValueError(f"{path}: image {row} is of type {kind}, expected bytes: {DOWNLOAD_AGAIN}")
    return encoded


def _decode_image(encoded: bytes, path: Path, row: int) -> np.ndarray:
    """Decode a JPEG or PNG to (3, 112, 112) uint8 RGB."""
    image = None if is_cut_off(encoded) else decode_rgb(encoded)
    if image is None:
        raise ValueError(f"{path}: image {row} cannot be decoded as JPEG or PNG: {DOWNLOAD_AGAIN}")
    if image.shape != (112, 112, 3):
        height, width = image.shape[:2]
        raise ValueError(
            f"{path}: image {row} is {width} x {height} px, expected 112 x 112: use the set of aligned faces "
            f"(see Data/README.md)"
        )
    return np.ascontiguousarray(image.transpose(2, 0, 1))
