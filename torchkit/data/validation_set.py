"""Verification sets in the two formats they are published in.

- A bcolz carray folder `NAME/` of (N, 3, 112, 112) float32 in [-1, 1], channels BGR, and beside it
  `NAME_list.npy` (N/2,) bool: the packages of AdaFace and InsightFace_Pytorch.
- `NAME.bin`, a pickle of `(N encoded images, N/2 bools)`: the packages of InsightFace.

Both hold 2 rows a pair and repeat an image wherever it is in several pairs; a `ValidationSet` holds it once.
Nothing in a file is trusted: no pickle is executed, and bcolz is given a folder only after its description
was checked (bcolz itself unpickles what a carray of dtype object holds).
"""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from torchkit.util.files import atomic_folder, atomic_write_bytes
from torchkit.util.pixels import decode_rgb

IMAGE_SHAPE = (3, 112, 112)
"""(channels, height, width) of every image of a set."""

_ROW_BYTES = 4 * 3 * 112 * 112  # a float32 row of a carray
_ROWS_AT_ONCE = 256  # about 39 MB as float32
_RANGE_TOLERANCE = 1e-3  # far above float32 rounding, far below one step of 8 bits (2 / 255)
_FLOAT32_NAMES = ("float32", "<f4", "f4", "=f4")
_BLOSC_MAX_BYTES = 2**31 - 17  # the longest buffer that blosc compresses
_BLOSCPACK_HEADER_BYTES = 16  # b"blpk", version, number of chunks
_BLOSC_HEADER_BYTES = 16  # 4 x uint8, then uint32 nbytes, blocksize, ctbytes
_DOWNLOAD_AGAIN = "the file is damaged or of another kind: copy or download it again (see Data/README.md)"


@dataclass(frozen=True, eq=False)
class ValidationSet:
    """The pairs of a verification set; rows 2k and 2k + 1 of the published array are pair k.

    Attributes:
        name: of the set, as in its file's name.
        images: (M, 3, 112, 112) uint8 RGB, the distinct images in order of first appearance.
        rows: (N,) int64; row r of the published array is `images[rows[r]]`.
        same: (N/2,) bool; whether pair k shows one person.
    """

    name: str
    images: np.ndarray
    rows: np.ndarray
    same: np.ndarray


def load_validation_set(root: Path, name: str) -> ValidationSet:
    """Read the set `name` from `root`: the folder `NAME/` with `NAME_list.npy`, or else `NAME.bin`.

    Raises:
        FileNotFoundError: neither format is there, or the folder has no list.
        ValueError: a file does not hold what its format says, or the name is not a plain file name.
    """
    root = Path(root)
    check_present(root, [name])
    folder = root / name
    if folder.is_dir():
        return _load_carray(folder, _list_path(root, name), name)
    return _load_bin(root / f"{name}.bin", name)


def check_present(root: Path, names: Sequence[str]) -> None:
    """Make sure, before long work, that every set is there in one of the two formats.

    Raises:
        FileNotFoundError: one is not; all that are missing are named, with where they were looked for.
        ValueError: a name is not a plain file name.
    """
    for name in names:
        _check_name(name)
    missing = [name for name in names if not (root / name).is_dir() and not (root / f"{name}.bin").is_file()]
    if not missing:
        return
    looked = "; ".join(f"{root / name}/ with {name}_list.npy beside it, or {root / name}.bin" for name in missing)
    raise FileNotFoundError(
        f"no validation set {', '.join(map(repr, missing))}: looked for {looked}. lfw, cfp_fp, agedb_30, calfw and "
        "cplfw come with the data packages of AdaFace and InsightFace: put them under Data/validation, or name the "
        "folder that has them; see Data/README.md"
    )


def write_validation_set(root: Path, name: str, images: np.ndarray, same: np.ndarray) -> Path:
    """Write a set as a carray folder with its list, and return the folder.

    The list is written last and an old one is removed first: a set whose writing was cut short has no list,
    and a list never meets another set's images.

    Args:
        root: folder of the sets; created when missing.
        name: of the set.
        images: (N, 3, 112, 112) uint8 RGB, rows 2k and 2k + 1 are pair k.
        same: (N/2,) bool.

    Raises:
        ValueError: a shape or dtype is another one.
    """
    import bcolz  # here, for .bin files do not need it

    root = Path(root)
    _check_name(name)
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != IMAGE_SHAPE:
        raise ValueError(
            f"the images of {name!r} are {images.shape} {images.dtype}, expected (N, 3, 112, 112) uint8 RGB"
        )
    _check_pair_count(f"the images of {name!r}", len(images), "give two rows for each pair")
    _check_same(f"the list of {name!r}", np.asarray(same), len(images))

    list_path = _list_path(root, name)
    with atomic_folder(root / name) as folder:
        empty = np.empty((0, *IMAGE_SHAPE), np.float32)
        store = bcolz.carray(empty, rootdir=str(folder), mode="w", expectedlen=len(images))
        for start in range(0, len(images), _ROWS_AT_ONCE):
            store.append(_to_published(images[start : start + _ROWS_AT_ONCE]))
        store.flush()
        list_path.unlink(missing_ok=True)
    atomic_write_bytes(list_path, _npy_bytes(np.asarray(same)))
    return root / name


# --- what both formats share ---


class _DistinctImages:
    """Collects rows, keeping each distinct image once."""

    def __init__(self, row_count: int) -> None:
        # Pages of this array that are never written to take no memory.
        self._images = np.empty((row_count, *IMAGE_SHAPE), np.uint8)
        self._index_by_digest: dict[bytes, int] = {}

    def add(self, image: np.ndarray) -> int:
        """Take an image (3, 112, 112) uint8 and return its index among the distinct ones."""
        next_index = len(self._index_by_digest)
        index = self._index_by_digest.setdefault(hashlib.sha256(image.tobytes()).digest(), next_index)
        if index == next_index:
            self._images[index] = image
        return index

    def array(self) -> np.ndarray:
        """The distinct images, (M, 3, 112, 112) uint8."""
        return self._images[: len(self._index_by_digest)]


def _check_name(name: str) -> None:
    if name in ("", "..") or Path(name).name != name:
        raise ValueError(f"validation set name {name!r} is no plain file name without folders, such as 'lfw'")


def _list_path(root: Path, name: str) -> Path:
    return root / f"{name}_list.npy"


def _check_pair_count(what: str, row_count: int, remedy: str) -> None:
    if row_count < 2 or row_count % 2:
        raise ValueError(f"{what}: {row_count} rows, expected an even number of at least 2: {remedy}")


def _check_same(what: str, same: np.ndarray, row_count: int) -> None:
    if same.dtype != np.bool_ or same.shape != (row_count // 2,):
        raise ValueError(
            f"{what}: {same.shape} {same.dtype}, expected ({row_count // 2},) bool, one entry for each pair "
            f"of the {row_count} rows: use the list and the images of the same package"
        )


# --- bcolz carray folder ---


def _load_carray(folder: Path, list_path: Path, name: str) -> ValidationSet:
    if not list_path.is_file():
        raise FileNotFoundError(
            f"{list_path} is missing: the images in {folder} need the list that came with them; see Data/README.md"
        )
    row_count, chunk_rows = _check_carray_files(folder)
    same = _read_list(list_path)
    _check_same(str(list_path), same, row_count)
    distinct = _DistinctImages(row_count)
    rows = np.empty(row_count, np.int64)
    for start, block in _carray_blocks(folder, row_count, chunk_rows):
        for offset, image in enumerate(_from_published(block, folder, start)):
            rows[start + offset] = distinct.add(image)
    return ValidationSet(name, distinct.array(), rows, same)


def _check_carray_files(folder: Path) -> tuple[int, int]:
    """Check a carray's description and its chunks' headers; return its rows and its rows a chunk."""
    sizes_path, storage_path = folder / "meta" / "sizes", folder / "meta" / "storage"
    shape = _read_json_object(sizes_path).get("shape")
    if not (isinstance(shape, list) and tuple(shape[1:]) == IMAGE_SHAPE and type(shape[0]) is int):
        raise ValueError(f"{sizes_path}: shape {shape}, expected [N, 3, 112, 112]: {_DOWNLOAD_AGAIN}")
    _check_pair_count(str(sizes_path), shape[0], _DOWNLOAD_AGAIN)
    storage = _read_json_object(storage_path)
    dtype = storage.get("dtype")
    if dtype not in _FLOAT32_NAMES:
        raise ValueError(f"{storage_path}: dtype {dtype!r}, expected 'float32': {_DOWNLOAD_AGAIN}")
    chunk_rows, most = storage.get("chunklen"), _BLOSC_MAX_BYTES // _ROW_BYTES
    if type(chunk_rows) is not int or not 1 <= chunk_rows <= most:
        raise ValueError(f"{storage_path}: chunklen {chunk_rows!r}, expected 1 to {most}: {_DOWNLOAD_AGAIN}")
    for index, start in enumerate(range(0, shape[0], chunk_rows)):
        chunk_path = folder / "data" / f"__{index}.blp"
        _check_chunk_header(chunk_path, min(chunk_rows, shape[0] - start), chunk_rows)
    return shape[0], chunk_rows


def _check_chunk_header(path: Path, used_rows: int, chunk_rows: int) -> None:
    """Blosc believes the sizes in a chunk's header; a wrong one makes it read or write past a buffer."""
    if not path.is_file():
        raise ValueError(f"{path} is missing: {_DOWNLOAD_AGAIN}")
    with path.open("rb") as file:
        header = file.read(_BLOSCPACK_HEADER_BYTES + _BLOSC_HEADER_BYTES)
    if len(header) < _BLOSCPACK_HEADER_BYTES + _BLOSC_HEADER_BYTES or not header.startswith(b"blpk"):
        raise ValueError(f"{path} is no bcolz chunk: {_DOWNLOAD_AGAIN}")
    data_bytes, _, stored_bytes = struct.unpack_from("<III", header, _BLOSCPACK_HEADER_BYTES + 4)
    if not used_rows * _ROW_BYTES <= data_bytes <= chunk_rows * _ROW_BYTES:
        expected = f"{used_rows * _ROW_BYTES} ({used_rows} rows of float32 images)"
        raise ValueError(f"{path} holds {data_bytes} bytes, expected {expected}: {_DOWNLOAD_AGAIN}")
    there = path.stat().st_size - _BLOSCPACK_HEADER_BYTES
    if stored_bytes > there:
        raise ValueError(f"{path} is cut off after {there} of {stored_bytes} bytes: {_DOWNLOAD_AGAIN}")


def _carray_blocks(folder: Path, row_count: int, chunk_rows: int) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the first row and the rows (n, 3, 112, 112) float32 of block after block.

    Blocks end where chunks end, so that each chunk is decompressed once and whole.
    """
    import bcolz

    step = chunk_rows * max(1, _ROWS_AT_ONCE // chunk_rows)
    try:
        # "r" leaves the folder as it is; carray and not bcolz.open, which goes on to other kinds of store.
        store = bcolz.carray(rootdir=str(folder), mode="r")
        for start in range(0, row_count, step):
            yield start, store[start : start + step]
    except (ArithmeticError, AttributeError, LookupError, OSError, RuntimeError, TypeError) as error:
        # bcolz has no error class of its own and raises whatever the damage leads to
        raise ValueError(f"{folder} cannot be read by bcolz ({error}): {_DOWNLOAD_AGAIN}") from error


def _from_published(block: np.ndarray, folder: Path, start: int) -> np.ndarray:
    """Rows (n, 3, 112, 112) float32 BGR in [-1, 1] -> uint8 RGB."""
    inside = np.abs(block) <= 1 + _RANGE_TOLERANCE  # false for NaN too
    if not inside.all():
        row = int(np.argmin(inside.all(axis=(1, 2, 3))))
        value = block[row][~inside[row]][0]
        raise ValueError(
            f"{folder}: value {value:.6g} in row {start + row}, expected -1 to 1: images must be stored as "
            f"v / 127.5 - 1; write them with write_validation_set or download them again (see Data/README.md)"
        )
    values = np.rint((block + np.float32(1)) * np.float32(127.5))  # the tolerance rounds to 0 or 255
    return values.astype(np.uint8)[:, ::-1]


def _to_published(images: np.ndarray) -> np.ndarray:
    """Rows (n, 3, 112, 112) uint8 RGB -> float32 BGR in [-1, 1]; the way back restores all 256 values."""
    return np.ascontiguousarray(images[:, ::-1]).astype(np.float32) / np.float32(127.5) - np.float32(1)


def _read_json_object(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ValueError(f"{path} is missing, so {path.parent.parent} is no bcolz carray: {_DOWNLOAD_AGAIN}")
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON ({error}): {_DOWNLOAD_AGAIN}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds a JSON {type(value).__name__}, expected an object: {_DOWNLOAD_AGAIN}")
    return value


def _read_list(path: Path) -> np.ndarray:
    try:
        with path.open("rb") as file:
            return np.lib.format.read_array(file, allow_pickle=False)
    except (ValueError, EOFError, MemoryError) as error:
        raise ValueError(f"{path} is no array of bools ({error}): {_DOWNLOAD_AGAIN}") from error


def _npy_bytes(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


# --- InsightFace's .bin ---


def _load_bin(path: Path, name: str) -> ValidationSet:
    entries, flags = _read_bin(path)
    _check_pair_count(str(path), len(entries), _DOWNLOAD_AGAIN)
    if not all(isinstance(flag, int) and flag in (0, 1) for flag in flags):
        raise ValueError(f"{path}: the list of pairs holds something else than bools: {_DOWNLOAD_AGAIN}")
    same = np.array(flags, dtype=bool)
    _check_same(str(path), same, len(entries))
    distinct = _DistinctImages(len(entries))
    rows = np.empty(len(entries), np.int64)
    index_by_encoded: dict[bytes, int] = {}  # decode what is repeated once
    for row, entry in enumerate(entries):
        encoded = _encoded_bytes(entry, path, row)
        if encoded not in index_by_encoded:
            index_by_encoded[encoded] = distinct.add(_decode_image(encoded, path, row))
        rows[row] = index_by_encoded[encoded]
    return ValidationSet(name, distinct.array(), rows, same)


def _read_bin(path: Path) -> tuple[list[Any], list[Any]]:
    try:
        content = _DataUnpickler(io.BytesIO(path.read_bytes()), encoding="bytes").load()
    except Exception as error:  # a damaged or hostile pickle can raise nearly anything
        raise ValueError(f"{path} is not read: {error or type(error).__name__}; {_DOWNLOAD_AGAIN}") from error
    parts = content if isinstance(content, list | tuple) else ()
    if len(parts) != 2 or not all(isinstance(part, list | tuple) for part in parts):
        kind = f"a {type(content).__name__} of other content"
        raise ValueError(f"{path} holds {kind}, expected (list of images, list of bools): {_DOWNLOAD_AGAIN}")
    return list(parts[0]), list(parts[1])


def _encoded_bytes(entry: Any, path: Path, row: int) -> bytes:
    encoded = entry.to_bytes() if isinstance(entry, _ByteArray) else entry
    if not isinstance(encoded, bytes):
        kind = "array of another type" if isinstance(entry, _ByteArray) else type(entry).__name__
        raise ValueError(f"{path}: image {row} is of type {kind}, expected bytes: {_DOWNLOAD_AGAIN}")
    return encoded


def _decode_image(encoded: bytes, path: Path, row: int) -> np.ndarray:
    """Bytes of a JPEG or PNG -> (3, 112, 112) uint8 RGB."""
    image = decode_rgb(encoded)
    if image is None:
        raise ValueError(f"{path}: image {row} cannot be decoded as JPEG or PNG: {_DOWNLOAD_AGAIN}")
    if image.shape != (112, 112, 3):
        height, width = image.shape[:2]
        raise ValueError(
            f"{path}: image {row} is {width} x {height} px, expected 112 x 112: use the set of aligned faces "
            f"(see Data/README.md)"
        )
    return np.ascontiguousarray(image.transpose(2, 0, 1))


class _DataUnpickler(pickle._Unpickler):
    """Unpickles lists, tuples, bytes, bools and ints. No name in a file is ever looked up: nothing can run.

    A few names are needed for bytes in the older pickle protocols and for images that are uint8 arrays (what
    `cv2.imencode` returns); each gives an inert stand-in, made anew so that no file leaves anything in it.

    The unpickler written in Python, for the one in C fills a table as long as the largest memo number in the
    file, so that a few bytes there take gigabytes.
    """

    def find_class(self, module: str, name: str) -> Any:
        stand_in = _STAND_INS.get((module, name))
        if stand_in is None:
            raise ValueError(
                f"it asks for the global {module}.{name}, a set holds only lists, tuples, bytes, bools, ints"
            )
        return stand_in()


class _EncodeStandIn:
    """For `_codecs.encode`: Python 3 writes bytes in protocol 2 and below as `encode(text, "latin1")`."""

    __slots__ = ()

    def __call__(self, text: str, encoding: str) -> bytes:
        if encoding != "latin1":
            raise ValueError(f"it encodes text as {encoding!r}, expected 'latin1'")
        return text.encode("latin1")


class _ByteArray:
    """For a uint8 array: keeps the state that the pickle gives it."""

    __slots__ = ("_state",)

    def __init__(self) -> None:
        self._state: Any = None

    def __setstate__(self, state: Any) -> None:
        self._state = state

    def to_bytes(self) -> bytes | None:
        """The array's bytes, or None when it is no uint8 array of shape (n,) or (n, 1)."""
        match self._state:
            case (int(), (int(length),) | (int(length), 1), _DtypeStandIn(is_uint8=True), _, bytes(data)):
                return data if len(data) == length else None
        return None


class _ReconstructStandIn:
    """For `numpy.core.multiarray._reconstruct(numpy.ndarray, (0,), b"b")`: an array still without state."""

    __slots__ = ()

    def __call__(self, *_: Any) -> _ByteArray:
        return _ByteArray()


class _NdarrayStandIn:
    """For `numpy.ndarray`, which is only passed to `_reconstruct`."""

    __slots__ = ()


class _DtypeStandIn:
    """For `numpy.dtype`, both the function and what it returns."""

    __slots__ = ("is_uint8",)

    def __init__(self, code: Any = None) -> None:
        self.is_uint8 = code in ("u1", b"u1")

    def __call__(self, code: Any, *_: Any) -> _DtypeStandIn:
        return _DtypeStandIn(code)

    def __setstate__(self, state: Any) -> None:
        """A one-byte type has no byte order or fields worth keeping."""


_STAND_INS: dict[tuple[str, str], type] = {
    ("_codecs", "encode"): _EncodeStandIn,
    ("numpy", "dtype"): _DtypeStandIn,
    ("numpy", "ndarray"): _NdarrayStandIn,
    ("numpy.core.multiarray", "_reconstruct"): _ReconstructStandIn,
    ("numpy._core.multiarray", "_reconstruct"): _ReconstructStandIn,
}
