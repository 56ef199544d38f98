"""The interface of training sets in all forms: labels, and images by their position."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from torchkit.data.images import decode_face, read_bytes
from torchkit.data.index.packed import PackedStrings
from torchkit.data.index.record_file import RecordFile

MAX_LABEL = 10**9 - 1
ImageReader = Callable[[RecordFile, int, str], bytes]
"""(file, offset, name in messages) -> the encoded image of the record there."""


class Index(ABC):
    """A training set's images and identities.

    Everything that grows with the number of images is a NumPy array, which forked workers share with their parent.
    Lists of Python objects would be copied into each worker, because reading an object changes its reference count.

    Args:
        file: the index, record file or folder of the set.
        labels: (N,) int64, every label 0..num_classes-1 present.
    """

    def __init__(self, file: Path, labels: np.ndarray) -> None:
        self.file, self.labels = file, labels
        self.num_classes = int(labels.max()) + 1

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def describe(self, position: int) -> str:
        """Name the image at `position` for messages: file, and line or offset."""

    @abstractmethod
    def source(self, position: int) -> Callable[[], bytes]:
        """Return a function that reads the encoded image at `position`; it is small and can be pickled."""

    def read(self, position: int) -> np.ndarray:
        """Read the image at `position` as (112, 112, 3) uint8 RGB.

        Raises:
            FileNotFoundError, ValueError: it cannot be read or decoded, is cut off or not 112x112; the message begins
                with `describe(position)`.
        """
        return decode_face(self.source(position)(), self.describe(position))


class Lines:
    """Map positions to lines of index files, which follow each other.

    Args:
        files: the index files.
        counts: number of lines of each.
    """

    def __init__(self, files: Sequence[Path], counts: Sequence[int]) -> None:
        self.files = list(files)
        self._ends = np.cumsum(counts)

    def describe(self, position: int) -> str:
        """Return `file, line n`; lines count from 1."""
        k = int(np.searchsorted(self._ends, position, side="right"))
        return f"{self.files[k]}, line {position + 1 - int(self._ends[k - 1] if k else 0)}"


class ImageIndex(Index):
    """Images that are files of their own.

    Args:
        root: folder that `paths` are relative to.
        paths: of the images.
        labels: (N,) int64.
        lines: of the index files that list the images, if any do.
    """

    def __init__(self, root: Path, paths: PackedStrings, labels: np.ndarray, lines: Lines | None = None) -> None:
        super().__init__(lines.files[0] if lines else root, labels)
        self.root, self.paths, self.lines = root, paths, lines

    def describe(self, position: int) -> str:
        path = str(self.root / self.paths[position])
        return f"{self.lines.describe(position)}: {path}" if self.lines else path

    def source(self, position: int) -> Callable[[], bytes]:
        return partial(read_bytes, self.root / self.paths[position], self.describe(position))


class RecordIndex(Index):
    """Images in record files.

    Args:
        files: the record files.
        shards: (N,) unsigned, the position in `files` of each image's file.
        offsets: (N,) uint64, where each image's record begins, in bytes.
        labels: (N,) int64.
        read_image: reads an image of these files.
        lines: of the index files that list the records, if any do.
    """

    def __init__(
        self,
        files: Sequence[RecordFile],
        shards: np.ndarray,
        offsets: np.ndarray,
        labels: np.ndarray,
        read_image: ImageReader,
        lines: Lines | None = None,
    ) -> None:
        super().__init__(lines.files[0] if lines else files[0].path, labels)
        self.files = list(files)
        self.shards = shards.astype(np.min_scalar_type(len(self.files) - 1))
        self.offsets = offsets
        self.read_image, self.lines = read_image, lines

    def describe(self, position: int) -> str:
        record = f"{self.files[self.shards[position]].path} at byte {self.offsets[position]}"
        return f"{self.lines.describe(position)}: {record}" if self.lines else record

    def source(self, position: int) -> Callable[[], bytes]:
        file, offset = self.files[self.shards[position]], int(self.offsets[position])
        return partial(self.read_image, file, offset, self.describe(position))


def check_labels(labels: np.ndarray, where: object) -> None:
    """Check that no identity is missing.

    Raises:
        ValueError: a gap in the labels; the message begins with `where`.
    """
    gaps = missing_labels(labels)
    if gaps.size:
        raise ValueError(
            f"{where}: label {gaps[0]} is missing, though labels go up to {labels.max()}; "
            "number the identities 0, 1, 2, ... without gaps"
        )


def missing_labels(labels: np.ndarray) -> np.ndarray:
    """Return labels below the largest one that do not occur; of a long gap, the first ones."""
    present = np.unique(labels)
    after = np.concatenate([[-1], present[:-1]]) + 1
    return after[after != present]
