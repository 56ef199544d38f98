"""Read and write index files: text with a line for each image.

| line | separated by | the image is |
|---|---|---|
| `relative/path label` | a space or a tab | the file DATA_ROOT/relative/path |
| `shards number offset label` (TFace) | tabs | in the TFRecord file DATA_ROOT/shards/shards-NUMBER.tfrecord |

NUMBER has five digits, offsets are in bytes.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Sequence
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Protocol

import numpy as np

from torchkit.data.index.base import ImageIndex, Index, Lines, RecordIndex, check_labels
from torchkit.data.index.packed import StringPacker
from torchkit.data.index.record_file import RecordFile
from torchkit.data.index.tfrecord import MIN_RECORD_BYTES, read_image
from torchkit.data.text import check_inside, decode_lines, iterate_blocks, iterate_lines, match_lines
from torchkit.util.files import atomic_write_text

LABEL = re.compile("[0-9]{1,9}")
SHARD = re.compile("[0-9]{1,9}")
OFFSET = re.compile("[0-9]{1,18}")
FORM = "`relative/path label` with a label from 0 up"
RECORD_FORM = "four columns between tabs, `shards number offset label`, as in the first line"
LINE = f"a line {FORM} for each image"


def read_text_index(files: Sequence[Path], data_root: Path) -> Index:
    """Read index files, one after the other, as one training set.

    Raises:
        FileNotFoundError: no such file or data folder, or a record file is missing.
        ValueError: empty, a line of another form, a path that leads out of the data folder, an offset beyond the end
            of its file, or a gap in the labels.
    """
    if not data_root.is_dir():
        raise FileNotFoundError(f"DATA_ROOT = {data_root} is no folder; it must hold the images that {files[0]} lists")
    collector: Collector = _Records(data_root) if lists_records(files[0]) else _Images(data_root)
    counts = []
    for file in files:
        count = 0
        for first, block in iterate_blocks(file, "index", LINE):
            count += _collect(collector, block, file, first)
        counts.append(count)
    index = collector.index(Lines(files, counts))
    check_labels(index.labels, files[0] if len(files) == 1 else f"{files[0]} to {files[-1].name}")
    return index


def lists_records(file: Path) -> bool:
    """Whether the first line of an index names a record.

    Raises:
        FileNotFoundError, ValueError: as `iterate_lines`.
    """
    return next(iterate_lines(file, "index", LINE)).count("\t") == 3


def parse_line(line: str, file: Path, number: int) -> tuple[str, int]:
    """Path and label in line `number` of an index of image files.

    Raises:
        ValueError: another form, or a path that leads out of the data folder.
    """
    text = line.rstrip()
    path, _, label = text.rpartition("\t" if "\t" in text else " ")
    if not path or "\t" in path or not LABEL.fullmatch(label):
        hint = (
            "; TFace's `.index` of a TFRecord folder has no labels, its index for training has" if "\t" in path else ""
        )
        raise ValueError(f"{file}, line {number}: {line!r}: expected {FORM}{hint}")
    check_inside(path, f"{file}, line {number}")
    return path, int(label)


def parse_record_line(line: str, file: Path, number: int) -> tuple[str, int, int]:
    """Record file, relative to the data folder, offset in bytes, and label in line `number` of an index of records.

    Raises:
        ValueError: another form, or a name that leads out of the data folder.
    """
    columns = line.rstrip().split("\t")
    forms = (SHARD, OFFSET, LABEL)
    if len(columns) != 4 or not columns[0] or not all(f.fullmatch(c) for f, c in zip(forms, columns[1:], strict=True)):
        raise ValueError(f"{file}, line {number}: {line!r}: expected {RECORD_FORM}")
    name, shard, offset, label = columns
    check_inside(name, f"{file}, line {number}")
    return shard_path(name, int(shard)), int(offset), int(label)


def shard_path(name: str, number: int) -> str:
    """Return the path of one of TFace's TFRecord files, relative to the data folder."""
    return f"{name}/{name}-{number:05d}.tfrecord"


def write_index(file: Path, paths: Sequence[str], labels: Sequence[int]) -> None:
    """Write an index of image files, whole or not at all.

    Raises:
        ValueError: a path that an index cannot hold.
    """
    for path in paths:
        if path.strip() != path or not path.isprintable():
            raise ValueError(f"{path!r}: an index cannot hold this name: rename the file or its folder")
    atomic_write_text(file, "".join(f"{path} {label}\n" for path, label in zip(paths, labels, strict=True)))


class Collector(Protocol):
    """Collects lines and makes an index of them."""

    pattern: re.Pattern[bytes]
    """Matches regular lines."""

    def add(self, line: str, file: Path, number: int) -> None: ...

    def extend(self, lines: Sequence[tuple[bytes, ...]]) -> None:
        """Add lines that `pattern` matched."""

    def index(self, lines: Lines) -> Index: ...


def _collect(collector: Collector, block: bytes, file: Path, first: int) -> int:
    """Add a block of lines; return their number."""
    matches = match_lines(collector.pattern, block)
    if matches is not None:
        collector.extend(matches)
    else:  # a line is irregular: parse line by line, so that an error names it
        for number, line in enumerate(decode_lines(block, file, first), start=first):
            collector.add(line, file, number)
    return block.count(b"\n")


class _Images:
    pattern = re.compile(rb"([^\t\n]+)[ \t]([0-9]{1,9})\n")

    def __init__(self, root: Path) -> None:
        self.root, self.paths, self.labels = root, StringPacker(), array("q")

    def add(self, line: str, file: Path, number: int) -> None:
        path, label = parse_line(line, file, number)
        self.paths.append(path)
        self.labels.append(label)

    def extend(self, lines: Sequence[tuple[bytes, ...]]) -> None:
        paths, labels = zip(*lines, strict=True)
        self.paths.extend(paths)
        self.labels.extend(map(int, labels))

    def index(self, lines: Lines) -> Index:
        return ImageIndex(self.root, self.paths.pack(), np.frombuffer(self.labels, np.int64), lines)


class _Records:
    pattern = re.compile(rb"([^\t\n]+)\t([0-9]{1,9})\t([0-9]{1,18})\t([0-9]{1,9})\n")

    def __init__(self, root: Path) -> None:
        self.root = root
        self.numbers: dict[str, int] = {}
        self.shards, self.offsets, self.labels = array("I"), array("Q"), array("q")

    def add(self, line: str, file: Path, number: int) -> None:
        path, offset, label = parse_record_line(line, file, number)
        self.shards.append(self._number(path))
        self.offsets.append(offset)
        self.labels.append(label)

    def extend(self, lines: Sequence[tuple[bytes, ...]]) -> None:
        for (name, shard), columns in groupby(lines, itemgetter(0, 1)):
            number = self._number(shard_path(name.decode(), int(shard)))
            _, _, offsets, labels = zip(*columns, strict=True)
            self.shards.extend([number] * len(offsets))
            self.offsets.extend(map(int, offsets))
            self.labels.extend(map(int, labels))

    def _number(self, path: str) -> int:
        return self.numbers.setdefault(path, len(self.numbers))

    def index(self, lines: Lines) -> Index:
        files = [RecordFile(self.root / path) for path in self.numbers]
        arrays = [np.frombuffer(column, f"{column.typecode}") for column in (self.shards, self.offsets, self.labels)]
        shards, offsets, labels = arrays
        first = np.unique(shards, return_index=True)[1]
        sizes = [file.size(f"{lines.describe(int(k))}: {file.path}") for file, k in zip(files, first, strict=True)]
        index = RecordIndex(files, shards, offsets, labels, read_image, lines)
        beyond = offsets + MIN_RECORD_BYTES > np.array(sizes, np.uint64)[shards]
        if beyond.any():
            k = int(beyond.argmax())
            raise ValueError(
                f"{index.describe(k)} is beyond the end of the file, {sizes[shards[k]]} bytes; the file is cut off or "
                "the index belongs to another"
            )
        return index
