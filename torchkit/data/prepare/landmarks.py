"""Read tables that accompany images: five landmarks, or one number, in each line.

Landmarks: `name x1 y1 ... x5 y5`, in pixels: left eye, right eye, nose, left and right corner of the mouth, left being
the image's left. CelebA's files begin with a line that counts the images and a line that names the columns; both
may be missing. In a file whose name ends in .csv, as in Kaggle's copy of CelebA, columns are separated by commas and
the first line names them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from torchkit.data.text import check_inside, fields, read_lines

POINTS = 5
LANDMARK_FORM = "`name x1 y1 ... x5 y5` in pixels"
LANDMARK_COLUMNS = [
    f"{point}_{axis}" for point in ("lefteye", "righteye", "nose", "leftmouth", "rightmouth") for axis in "xy"
]
"""CelebA's names of the columns."""
CSV_ENDING = ".csv"


@dataclass(frozen=True)
class Table:
    """Numbers by image name."""

    file: Path
    values: dict[str, np.ndarray]
    lines: dict[str, int]

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self.values:
            raise ValueError(f"{self.file} has no line for {name}, which another list names; get it complete")
        return self.values[name]

    def where(self, name: str) -> str:
        """Name the line of an image for messages."""
        return f"{self.file}, line {self.lines[name]}: {name}"


def read_landmarks(file: Path) -> Table:
    """Read the points of each image, (5, 2) float64.

    Raises:
        FileNotFoundError, ValueError: a missing or empty file, a line of another form, an image twice, or fewer
            lines than the first one counts.
    """
    lines = read_lines(file, "landmarks", f"a line {LANDMARK_FORM} for each image")
    if file.suffix == CSV_ENDING:
        _check_columns(file, lines[0], LANDMARK_COLUMNS)
        return _points(_read(file, lines, 1, 2 * POINTS, LANDMARK_FORM))
    counted = lines[0].strip().isdecimal()
    start = int(counted)
    names = lines[start].split() if start < len(lines) else []
    if len(names) == 2 * POINTS and not any(_numbers([name]) for name in names):
        start += 1
    follow = len(lines) - start
    if counted and lines[0].strip() != str(follow):
        raise ValueError(f"{file}, line 1: promises {lines[0].strip()} images, {follow} follow; the file is cut off")
    return _points(_read(file, lines, start, 2 * POINTS, LANDMARK_FORM))


def _points(table: Table) -> Table:
    return Table(table.file, {name: row.reshape(POINTS, 2) for name, row in table.values.items()}, table.lines)


def read_numbers(file: Path, what: str) -> Table:
    """Read the whole number of each image, (1,) float64, from lines `name number`, in their order.

    Raises:
        FileNotFoundError, ValueError: a missing or empty file, a line of another form, or an image twice.
    """
    form = "`name number`"
    lines, start = read_lines(file, what, f"a line {form} for each image"), 0
    if file.suffix == CSV_ENDING:
        _check_columns(file, lines[0], [None])
        start = 1
    table = _read(file, lines, start, 1, form)
    for name, row in table.values.items():
        if row[0] < 0 or row[0] != int(row[0]):
            raise ValueError(f"{table.where(name)}: {row[0]:g}: expected a whole number from 0 up")
    return table


def _check_columns(file: Path, line: str, columns: Sequence[str | None]) -> None:
    """Check that a CSV file's first line names these columns after that of the images; None: any name."""
    cells = _cells(file, line)[1:]
    named = [
        None if wanted is None and not _numbers([name]) else name for name, wanted in zip(cells, columns, strict=False)
    ]
    if len(cells) != len(columns) or named != list(columns):
        names = ",".join(["image_id", *(wanted or "NAME" for wanted in columns)])
        raise ValueError(f"{file}, line 1: {line!r}: expected the names of the columns: {names}")


def _cells(file: Path, line: str) -> list[str]:
    return [cell.strip() for cell in line.split(",")] if file.suffix == CSV_ENDING else fields(line)


def _read(file: Path, lines: list[str], start: int, columns: int, form: str) -> Table:
    values: dict[str, np.ndarray] = {}
    numbers: dict[str, int] = {}
    for number, line in enumerate(lines[start:], start + 1):
        name, *rest = _cells(file, line) or [""]
        row = _numbers(rest)
        if not name or len(row) != columns:
            raise ValueError(f"{file}, line {number}: {line!r}: expected {form}")
        if name in values:
            raise ValueError(f"{file}, line {number}: {name} stands in line {numbers[name]} already; keep one of them")
        check_inside(name, f"{file}, line {number}")
        values[name] = np.array(row)
        numbers[name] = number
    if not values:
        raise ValueError(f"{file} lists no image: expected {form}")
    return Table(file, values, numbers)


def _numbers(texts: list[str]) -> list[float]:
    """Parse finite numbers; an empty list if one is not."""
    try:
        numbers = [float(text) for text in texts]
    except ValueError:
        return []
    return numbers if np.isfinite(numbers).all() else []
