"""The verification set that the readers of all forms return, and what these share."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from torchkit.data.problems import Report, attempt

IMAGE_SHAPE = (3, 112, 112)
"""(channels, height, width) of every image of a set."""
BAR_FROM_ROWS = 2000
"""Smaller sets are read too fast for a progress bar."""
DOWNLOAD_AGAIN = "the file is damaged or of another kind: copy or download it again (see Data/README.md)"


@dataclass(frozen=True, eq=False)
class ValidationSet:
    """The pairs of a verification set; rows 2k and 2k + 1 of the published array are pair k.

    Attributes:
        name: name of the set, as in its file's name.
        images: (M, 3, 112, 112) uint8 RGB, the distinct images in order of first appearance.
        rows: (N,) int64; row r of the published array is `images[rows[r]]`.
        same: (N/2,) bool; whether pair k shows one person.
    """

    name: str
    images: np.ndarray
    rows: np.ndarray
    same: np.ndarray


class DistinctImages:
    """Collect rows, and keep each distinct image once.

    Raises:
        ValueError: there is not enough memory for the rows.
    """

    def __init__(self, row_count: int, where: Path) -> None:
        try:  # pages of this array that are never written take no memory
            self._images = np.empty((row_count, *IMAGE_SHAPE), np.uint8)
        except (MemoryError, ValueError):
            raise ValueError(f"{where}: {row_count} rows are too many for the memory: {DOWNLOAD_AGAIN}") from None
        self._index_by_digest: dict[bytes, int] = {}
        self.rows = np.full(row_count, -1, np.int64)
        """(N,) index of each row's image; -1 for a row that is not set."""

    def set(self, row: int, image: np.ndarray) -> None:
        """Set row `row` to `image` (3, 112, 112) uint8."""
        next_index = len(self._index_by_digest)
        index = self._index_by_digest.setdefault(hashlib.sha256(image.tobytes()).digest(), next_index)
        if index == next_index:
            self._images[index] = image
        self.rows[row] = index

    def make_set(self, name: str, same: np.ndarray | None) -> ValidationSet | None:
        """Make the set; None if a row or the list is missing, which was reported."""
        if same is None or (self.rows < 0).any():
            return None
        return ValidationSet(name, self._images[: len(self._index_by_digest)], self.rows, same)


def rows_bar(row_count: int, label: str) -> tqdm:
    """A progress bar over the rows of a set."""
    return tqdm(total=row_count, desc=label, unit=" rows", dynamic_ncols=True, disable=row_count < BAR_FROM_ROWS)


def check_name(name: str) -> None:
    if name in ("", "..") or "\0" in name or Path(name).name != name:
        raise ValueError(f"validation set name {name!r} is no plain file name without folders, such as 'lfw'")


def list_path(root: Path, name: str) -> Path:
    return root / f"{name}_list.npy"


def check_pair_count(what: str, row_count: int, remedy: str) -> None:
    if row_count < 2 or row_count % 2:
        raise ValueError(f"{what}: {row_count} rows, expected an even number of at least 2: {remedy}")


def check_same(what: str, same: np.ndarray, row_count: int) -> None:
    if same.dtype != np.bool_ or same.shape != (row_count // 2,):
        raise ValueError(
            f"{what}: {same.shape} {same.dtype}, expected ({row_count // 2},) bool, one entry for each pair "
            f"of the {row_count} rows: use the list and the images of the same package"
        )


def read_list(path: Path, row_count: int, report: Report) -> np.ndarray | None:
    """Read NAME_list.npy of a set of `row_count` rows, (N/2,) bool."""

    def read() -> np.ndarray:
        if not path.is_file():
            raise FileNotFoundError(
                f"{path} is missing: the images beside it need the list that came with them; see Data/README.md"
            )
        try:
            with path.open("rb") as file:
                same = np.lib.format.read_array(file, allow_pickle=False)
        except Exception as error:  # NumPy parses the header as Python; a damaged one can raise nearly anything
            raise ValueError(f"{path} is no array of bools ({error}): {DOWNLOAD_AGAIN}") from error
        check_same(str(path), same, row_count)
        return same

    return attempt(report, read)


def npy_bytes(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()
