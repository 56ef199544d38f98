"""Index files: `relative/path label` a line, under INDEX_ROOT, with the pictures under DATA_ROOT."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

LABEL = re.compile("[0-9]{1,9}")


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
        ValueError: empty, a line of another form, or a gap in the labels.
    """
    file = index_root / f"{name}.txt"
    if not file.is_file():
        raise FileNotFoundError(
            f"index not found: {file} (INDEX_ROOT = {index_root}, DATASETS name = {name}); "
            "write it as Data/README.md shows, or change these keys"
        )
    if not data_root.is_dir():
        raise FileNotFoundError(f"DATA_ROOT = {data_root} is no folder; it must hold the pictures that {file} lists")
    lines = file.read_text().rstrip("\n").splitlines()
    if not lines:
        raise ValueError(f"{file} is empty: expected a line `relative/path label` for each picture")
    parsed = [_parse(line, file, number) for number, line in enumerate(lines, start=1)]
    labels = np.array([label for _, label in parsed], np.int64)
    _check_labels(labels, file)
    return Index(file, data_root, [path for path, _ in parsed], labels)


def _parse(line: str, file: Path, number: int) -> tuple[str, int]:
    path, _, label = line.rstrip().rpartition(" ")
    if not path or not LABEL.fullmatch(label):
        raise ValueError(f"{file}, line {number}: {line!r}: expected `relative/path label` with a label from 0 up")
    return path, int(label)


def _check_labels(labels: np.ndarray, file: Path) -> None:
    present = np.unique(labels)
    gaps = np.flatnonzero(present != np.arange(len(present)))
    if gaps.size:
        raise ValueError(
            f"{file}: label {gaps[0]} is missing, though labels go up to {present[-1]}; "
            "number the identities 0, 1, 2, ... without gaps"
        )
