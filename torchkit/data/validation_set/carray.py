"""Read and write the format of AdaFace and InsightFace_Pytorch: a bcolz carray `NAME/` and `NAME_list.npy`.

The carray holds (N, 3, 112, 112) float32 in [-1, 1], channels BGR; the list (N/2,) bool. A folder's
description is checked before bcolz opens it: bcolz trusts files, and unpickles carrays of dtype object.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from torchkit.data.problems import Report, attempt, stop
from torchkit.data.validation_set.base import (
    DOWNLOAD_AGAIN,
    IMAGE_SHAPE,
    DistinctImages,
    ValidationSet,
    check_name,
    check_pair_count,
    check_same,
    list_path,
    npy_bytes,
    read_list,
    rows_bar,
)
from torchkit.data.validation_set.colours import rows_out_of_range, to_8_bits, to_floats
from torchkit.util.files import atomic_folder, atomic_write_bytes

ROW_BYTES = 4 * 3 * 112 * 112  # a float32 row
ROWS_AT_ONCE = 256  # about 39 MB as float32
CHUNK_ROWS = 64  # rows a file that is written
FLOAT32_NAMES = ("float32", "<f4", "f4", "=f4")
BLOSC_MAX_BYTES = 2**31 - 17  # the longest buffer that blosc compresses
BLOSCPACK_HEADER_BYTES = 16  # b"blpk", version, number of chunks
BLOSC_HEADER_BYTES = 16  # 4 x uint8, then uint32 nbytes, blocksize, ctbytes


def load_carray(root: Path, name: str, report: Report = stop) -> ValidationSet | None:
    """Read NAME/ and NAME_list.npy; None if a problem was reported.

    Raises:
        ValueError: the carray's description is not of this format.
    """
    folder = root / name
    row_count, chunk_rows, whole = _check_files(folder, report)
    same = read_list(list_path(root, name), row_count, report)
    if not whole:
        return None
    distinct = DistinctImages(row_count, folder)
    for start, block in _blocks(folder, row_count, chunk_rows, report):
        wrong = dict(rows_out_of_range(block))
        for row, value in wrong.items():
            report(_out_of_range(folder, start + row, value))
        for offset, image in enumerate(to_8_bits(block)[:, ::-1]):
            if offset not in wrong:
                distinct.set(start + offset, image)
    return distinct.make_set(name, same)


def _check_files(folder: Path, report: Report) -> tuple[int, int, bool]:
    """Check a carray's description and chunk headers; return rows, rows a chunk, and whether all chunks are valid."""
    sizes_path, storage_path = folder / "meta" / "sizes", folder / "meta" / "storage"
    shape = _read_json_object(sizes_path).get("shape")
    if not (isinstance(shape, list) and tuple(shape[1:]) == IMAGE_SHAPE and type(shape[0]) is int):
        raise ValueError(f"{sizes_path}: shape {shape}, expected [N, 3, 112, 112]: {DOWNLOAD_AGAIN}")
    check_pair_count(str(sizes_path), shape[0], DOWNLOAD_AGAIN)
    storage = _read_json_object(storage_path)
    dtype = storage.get("dtype")
    if dtype not in FLOAT32_NAMES:
        raise ValueError(f"{storage_path}: dtype {dtype!r}, expected 'float32': {DOWNLOAD_AGAIN}")
    chunk_rows, most = storage.get("chunklen"), BLOSC_MAX_BYTES // ROW_BYTES
    if type(chunk_rows) is not int or not 1 <= chunk_rows <= most:
        raise ValueError(f"{storage_path}: chunklen {chunk_rows!r}, expected 1 to {most}: {DOWNLOAD_AGAIN}")
    return shape[0], chunk_rows, _check_chunks(folder / "data", shape[0], chunk_rows, report)


def _check_chunks(folder: Path, row_count: int, chunk_rows: int, report: Report) -> bool:
    whole = True
    chunk_count = sum(1 for _ in folder.glob("__*.blp"))
    for index, start in enumerate(range(0, row_count, chunk_rows)):
        if not _check_chunk(folder / f"__{index}.blp", min(chunk_rows, row_count - start), chunk_rows, report):
            whole = False
        if index > chunk_count:  # a description of a billion rows needs no billion messages
            break
    return whole


def _check_chunk(path: Path, used_rows: int, chunk_rows: int, report: Report) -> bool:
    """Check the sizes in a chunk's header, which Blosc trusts: a wrong one makes it read or write past a buffer."""

    def check() -> bool:
        if not path.is_file():
            raise ValueError(f"{path} is missing: {DOWNLOAD_AGAIN}")
        with path.open("rb") as file:
            header = file.read(BLOSCPACK_HEADER_BYTES + BLOSC_HEADER_BYTES)
        if len(header) < BLOSCPACK_HEADER_BYTES + BLOSC_HEADER_BYTES or not header.startswith(b"blpk"):
            raise ValueError(f"{path} is no bcolz chunk: {DOWNLOAD_AGAIN}")
        data_bytes, _, stored_bytes = struct.unpack_from("<III", header, BLOSCPACK_HEADER_BYTES + 4)
        if not used_rows * ROW_BYTES <= data_bytes <= chunk_rows * ROW_BYTES:
            expected = f"{used_rows * ROW_BYTES} ({used_rows} rows of float32 images)"
            raise ValueError(f"{path} holds {data_bytes} bytes, expected {expected}: {DOWNLOAD_AGAIN}")
        actual_bytes = path.stat().st_size - BLOSCPACK_HEADER_BYTES
        if stored_bytes > actual_bytes:
            raise ValueError(f"{path} is cut off after {actual_bytes} of {stored_bytes} bytes: {DOWNLOAD_AGAIN}")
        return True

    return attempt(report, check) is True


def _blocks(folder: Path, row_count: int, chunk_rows: int, report: Report) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the first row and the rows (n, 3, 112, 112) float32 of block after block.

    Blocks end where chunks end, so that each chunk is decompressed once and whole.
    """
    import bcolz  # imported here, since the other forms do not need it

    step = chunk_rows * max(1, ROWS_AT_ONCE // chunk_rows)
    store = None
    for start in range(0, row_count, step):
        try:
            # "r" leaves the folder as it is; carray and not bcolz.open, which goes on to other kinds of store.
            store = bcolz.carray(rootdir=str(folder), mode="r") if store is None else store
            block = store[start : start + step]
        except (ArithmeticError, AttributeError, LookupError, OSError, RuntimeError, TypeError) as error:
            # bcolz has no error class of its own and raises whatever the damage leads to
            rows = f"rows {start} to {min(start + step, row_count) - 1}"
            report(ValueError(f"{folder}, {rows} cannot be read by bcolz ({error}): {DOWNLOAD_AGAIN}"))
        else:
            yield start, block


def _out_of_range(folder: Path, row: int, value: float) -> ValueError:
    return ValueError(
        f"{folder}: value {value:.6g} in row {row}, expected -1 to 1: images must be stored as v / 127.5 - 1; write "
        "them with write_validation_set or download them again (see Data/README.md)"
    )


def _read_json_object(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ValueError(f"{path} is missing, so {path.parent.parent} is no bcolz carray: {DOWNLOAD_AGAIN}")
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON ({error}): {DOWNLOAD_AGAIN}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds a JSON {type(value).__name__}, expected an object: {DOWNLOAD_AGAIN}")
    return value


def write_validation_set(
    root: Path, name: str, images: np.ndarray, same: np.ndarray, rows: np.ndarray | None = None
) -> Path:
    """Write a set as a carray folder with its list, and return the folder.

    The list is written last and an old one is removed first: an interrupted set has no list, and a list never belongs
    to another set's images.

    Args:
        root: folder of the sets; created when missing.
        name: of the set.
        images: (M, 3, 112, 112) uint8 RGB.
        same: (N/2,) bool.
        rows: (N,) int, row r being images[rows[r]]; None for images that are the rows. Rows 2k and 2k + 1 are pair k.

    Raises:
        ValueError: a wrong shape or dtype.
    """
    import bcolz

    root, same = Path(root), np.asarray(same)
    check_name(name)
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != IMAGE_SHAPE:
        raise ValueError(
            f"the images of {name!r} are {images.shape} {images.dtype}, expected (N, 3, 112, 112) uint8 RGB"
        )
    rows = np.arange(len(images)) if rows is None else rows
    check_pair_count(f"the images of {name!r}", len(rows), "give two rows for each pair")
    check_same(f"the list of {name!r}", same, len(rows))

    with atomic_folder(root / name) as folder, rows_bar(len(rows), f"writing {name}") as bar:
        empty = np.empty((0, *IMAGE_SHAPE), np.float32)
        store = bcolz.carray(empty, rootdir=str(folder), mode="w", chunklen=min(CHUNK_ROWS, len(rows)))
        for start in range(0, len(rows), ROWS_AT_ONCE):
            block = images[rows[start : start + ROWS_AT_ONCE]]
            store.append(to_floats(np.ascontiguousarray(block[:, ::-1])))
            bar.update(len(block))
        store.flush()
        list_path(root, name).unlink(missing_ok=True)
    atomic_write_bytes(list_path(root, name), npy_bytes(same))
    return root / name
