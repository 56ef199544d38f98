"""Index files: `relative/path label` a line, under INDEX_ROOT, with the pictures under DATA_ROOT."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from torchkit.data.text import check_inside, read_lines
from torchkit.util.files import atomic_write_text

LABEL = re.compile("[0-9]{1,9}")
FORM = "`relative/path label` with a label from 0 up"


@dataclass(frozen=True)
class Index:
    """A training set's pictures and identities."""

    file: Path
    root: Path
    paths: list[str]
    labels: np.ndarray
    """(N,) int64, every label 0..num_classes-1 present."""

    @property
    def num_classes(self) -> int:
        return int(self.labels.max()) + 1

    def __len__(self) -> int:
        return len(self.paths)

    def describe(self, position: int) -> str:
        """How messages call the picture at `position`: file, line and path."""
        return f"{self.file}, line {position + 1}: {self.root / self.paths[position]}"


def read_index(index_root: Path, data_root: Path, name: str) -> Index:
    """Read INDEX_ROOT/name.txt.

    Raises:
        FileNotFoundError: no such index or data folder.
        ValueError: empty, a line of another form, a path that leads out of the data folder, or a gap in the labels.
    """
    file = index_root / f"{name}.txt"
    if not file.is_file():
        raise FileNotFoundError(
            f"index not found: {file} (INDEX_ROOT = {index_root}, DATASETS name = {name}); "
            "write it as Data/README.md shows, or change these keys"
        )
    if not data_root.is_dir():
        raise FileNotFoundError(f"DATA_ROOT = {data_root} is no folder; it must hold the pictures that {file} lists")
    lines = read_lines(file, "index", f"a line {FORM} for each picture")
    parsed = [parse_line(line, file, number) for number, line in enumerate(lines, start=1)]
    labels = np.array([label for _, label in parsed], np.int64)
    gaps = missing_labels(labels)
    if gaps.size:
        raise ValueError(
            f"{file}: label {gaps[0]} is missing, though labels go up to {labels.max()}; "
            "number the identities 0, 1, 2, ... without gaps"
        )
    return Index(file, data_root, [path for path, _ in parsed], labels)


def parse_line(line: str, file: Path, number: int) -> tuple[str, int]:
    """Path and label in line `number` of an index.

    Raises:
        ValueError: another form, or a path that leads out of the data folder.
    """
    path, _, label = line.rstrip().rpartition(" ")
    if not path or not LABEL.fullmatch(label):
        raise ValueError(f"{file}, line {number}: {line!r}: expected {FORM}")
    check_inside(path, f"{file}, line {number}")
    return path, int(label)


def missing_labels(labels: np.ndarray) -> np.ndarray:
    """Labels below the largest one that do not occur; of a long gap the first."""
    present = np.unique(labels)
    after = np.concatenate([[-1], present[:-1]]) + 1
    return after[after != present]


def write_index(file: Path, paths: Sequence[str], labels: Sequence[int]) -> None:
    """Write an index, whole or not at all.

    Raises:
        ValueError: a path that an index cannot hold.
    """
    for path in paths:
        if path.strip() != path or not path.isprintable():
            raise ValueError(f"{path!r}: an index cannot hold this name: rename the file or its folder")
    atomic_write_text(file, "".join(f"{path} {label}\n" for path, label in zip(paths, labels, strict=True)))
