"""Check an index or a validation set; print a line for each problem and exit with code 1 if there is any.

    python -m torchkit.data.prepare verify --index Data/CelebA/Anno/celebA_train.txt --root Data/CelebA/align_crop_112
    python -m torchkit.data.prepare verify --set Data/validation/lfw
    python -m torchkit.data.prepare verify --index Data/mine.txt --root Data/mine --set Data/validation/mine
    python -m torchkit.data.prepare verify --data Data/faces_emore

Of an index: lines, labels without gaps, paths that stand twice, images that are missing, damaged or not 112x112,
equal images of different people. Training data without an index (records or a folder for each person, --data): the
same. A set (DIR/NAME, in any of its forms): files, rows, images, folds that repeat or have one kind of pair only,
pairs that contradict each other or themselves. With both: images that occur in both. What is odd but may be intended
is printed as a note, and does not count as a problem.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from torchkit.data.images import decode_face, read_bytes
from torchkit.data.index import (
    Index,
    lists_records,
    missing_labels,
    parse_line,
    read_records_or_folders,
    read_text_index,
)
from torchkit.data.pairs import FOLDS
from torchkit.data.prepare.parallel import add_jobs_argument, parallel_map
from torchkit.data.problems import attempt
from torchkit.data.text import read_lines
from torchkit.data.validation_set import ValidationSet, read_validation_set
from torchkit.util.cli import CommandParser

HELP = "everything that is wrong with an index or a validation set"
NOTES_SHOWN = 20
SET_ENDINGS = (".bin", ".npy")


def add_arguments(parser: CommandParser) -> None:
    parser.option("index", type=Path, metavar="FILE", help="index, a line `relative/path label` an image")
    parser.option("root", type=Path, metavar="DIR", help="folder of the index's images (DATA_ROOT)")
    parser.option("data", type=Path, metavar="DIR/NAME", help="training set without an index (DATA_ROOT/NAME)")
    parser.option("set", type=Path, metavar="DIR/NAME", help="validation set; its .bin or .npy file will do")
    add_jobs_argument(parser)


def run(arguments: argparse.Namespace) -> None:
    if (arguments.index is None) != (arguments.root is None) or (arguments.index and arguments.data):
        raise ValueError("give --index FILE with --root DIR, or --data DIR/NAME")
    if not (arguments.index or arguments.data or arguments.set):
        raise ValueError("give --index FILE with --root DIR, or --data DIR/NAME, or --set DIR/NAME, or one of both")
    findings = Findings()
    digests: set[bytes] = set()
    if arguments.index:
        digests = verify_index(arguments.index, arguments.root, findings, arguments.jobs)
    if arguments.data:
        digests = verify_data(arguments.data.parent, arguments.data.name, findings, arguments.jobs)
    if arguments.set:
        named = set_of(arguments.set)
        verify_set(named.parent, named.name, findings, digests)
    for message in findings.notes[:NOTES_SHOWN]:
        print(f"note: {message}")
    if len(findings.notes) > NOTES_SHOWN:
        print(f"note: ... and {len(findings.notes) - NOTES_SHOWN} more")
    for message in findings.problems:
        print(f"wrong: {message}")
    print(f"{len(findings.problems)} problems, {len(findings.notes)} notes")
    if findings.problems:
        raise SystemExit(1)


def set_of(path: Path) -> Path:
    """Return DIR/NAME of a set that was given as DIR/NAME or as a file, e.g. DIR/NAME.bin."""
    return path.with_suffix("") if path.suffix in SET_ENDINGS and path.is_file() else path


@dataclass
class Findings:
    """The problems and notes of a check."""

    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def report(self, error: Exception) -> None:
        """Record an error as a problem; a `Report` (torchkit.data.problems)."""
        self.problems.append(str(error))


class Entry(NamedTuple):
    """An image of a training set."""

    name: str
    """File and line or offset, for messages."""
    short: str
    """A shorter name, for messages that are about another image of the set."""
    label: int
    file: str
    """The path that was tried, for messages."""
    read: Callable[[], bytes]
    """Reads the encoded image."""


def verify_index(file: Path, root: Path, findings: Findings, jobs: int = 1) -> set[bytes]:
    """Check an index and its images, and record in `findings` what is wrong.

    Args:
        file: the index.
        root: folder of the images.
        findings: receives problems and notes.
        jobs: processes that read the images.

    Returns:
        Digests of the images that could be read.
    """
    try:
        if lists_records(file):
            return _verify_images(partial(read_text_index, [file], root), findings, jobs)
        lines = read_lines(file, "index", "a line `relative/path label` for each image")
    except (ValueError, FileNotFoundError) as error:
        findings.report(error)
        return set()
    entries: list[Entry] = []
    first_line: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        try:
            path, label = parse_line(line, file, number)
        except ValueError as error:
            findings.report(error)
            continue
        if path in first_line:
            findings.problems.append(f"{file}, line {number}: {path} stands in line {first_line[path]} already")
        else:
            first_line[path] = number
            name = f"{file}, line {number}: {root / path}"
            short = f"{path} in line {number}"
            entries.append(
                Entry(f"{file}, line {number}: {path}", short, label, name, partial(read_bytes, root / path, name))
            )
    return _verify_entries(file, entries, findings, jobs)


def verify_data(root: Path, name: str, findings: Findings, jobs: int = 1) -> set[bytes]:
    """Check a training set without an index (records, or a folder for each person), like `verify_index`."""
    return _verify_images(partial(read_records_or_folders, root, name), findings, jobs)


def _verify_images(read: Callable[[], Index], findings: Findings, jobs: int) -> set[bytes]:
    index = attempt(findings.report, read)
    if index is None:
        return set()
    names = [index.describe(position) for position in range(len(index))]
    entries = [
        Entry(name, name, label, name, index.source(position))
        for position, (name, label) in enumerate(zip(names, index.labels.tolist(), strict=True))
    ]
    return _verify_entries(index.file, entries, findings, jobs)


def _verify_entries(file: Path, entries: Sequence[Entry], findings: Findings, jobs: int) -> set[bytes]:
    _verify_labels(file, np.array([entry.label for entry in entries], np.int64), findings)
    work = [(entry.read, entry.file) for entry in entries]
    results = list(parallel_map(_digest, work, jobs, file.name))
    findings.problems += [result for result in results if isinstance(result, str)]
    return _verify_distinct(entries, results, findings)


def _digest(image: tuple[Callable[[], bytes], str]) -> bytes | str:
    """Return the digest of an image's pixels, or a message that says what is wrong with it."""
    read, name = image
    try:
        return _digest_of(decode_face(read(), name))
    except (ValueError, FileNotFoundError) as error:
        return str(error)


def _digest_of(image: np.ndarray) -> bytes:
    return hashlib.sha256(image.tobytes()).digest()


def _verify_labels(file: Path, labels: np.ndarray, findings: Findings) -> None:
    if not labels.size:
        return
    findings.problems += [f"{file}: label {label} is missing" for label in missing_labels(labels)]
    if len(np.unique(labels)) < 2:
        findings.problems.append(f"{file}: all images show one person; a margin softmax needs two or more")
    alone = int((np.bincount(np.unique(labels, return_inverse=True)[1]) == 1).sum())
    if alone:
        findings.notes.append(f"{file}: {alone} people have one image only")


def _verify_distinct(entries: Sequence[Entry], results: Sequence[bytes | str], findings: Findings) -> set[bytes]:
    first_with: dict[bytes, Entry] = {}
    for entry, result in zip(entries, results, strict=True):
        if isinstance(result, str):
            continue
        other = first_with.setdefault(result, entry)
        if other is entry:
            continue
        message = f"{entry.name} is the same image as {other.short}"
        if entry.label != other.label:
            findings.problems.append(f"{message}, with the label {entry.label} and not {other.label}")
        else:
            findings.notes.append(message)
    return set(first_with)


def verify_set(root: Path, name: str, findings: Findings, training: set[bytes] | None = None) -> None:
    """Check the validation set `name` under `root`, and record in `findings` what is wrong.

    Args:
        root: folder of the sets.
        name: of the set.
        findings: receives problems and notes.
        training: digests of training images, none of which may be in the set.
    """
    try:
        data = read_validation_set(root, name, findings.report)
    except (ValueError, OSError) as error:
        findings.report(error)
        return
    if data is None:
        return
    _verify_pairs(data, findings)
    _verify_folds(data, findings)
    for position, image in enumerate(data.images):
        if (image == image[:, :1, :1]).all():
            findings.notes.append(f"{_rows(data, position)} is of one colour")
        if training and _digest_of(image.transpose(1, 2, 0)) in training:
            findings.problems.append(f"{_rows(data, position)} is in the index too: the set must show other people")


def _rows(data: ValidationSet, position: int) -> str:
    return f"{data.name}: the image of row {int(np.flatnonzero(data.rows == position)[0])}"


def _verify_pairs(data: ValidationSet, findings: Findings) -> None:
    first_with: dict[tuple[int, int], int] = {}
    for number, (left, right) in enumerate(np.sort(data.rows.reshape(-1, 2), axis=1).tolist()):
        kind = "one person" if data.same[number] else "two people"
        if left == right:
            message = f"{data.name}: pair {number} is one image twice, called {kind}"
            (findings.notes if data.same[number] else findings.problems).append(message)
        first = first_with.setdefault((left, right), number)
        if first == number:
            continue
        if data.same[first] != data.same[number]:
            findings.problems.append(f"{data.name}: pairs {first} and {number} are the same images, called {kind} once")
        else:
            findings.notes.append(f"{data.name}: pair {number} is pair {first} again")


def _verify_folds(data: ValidationSet, findings: Findings) -> None:
    """Check the folds that the evaluation uses: contiguous tenths."""
    if len(data.same) < FOLDS:
        findings.problems.append(f"{data.name}: {len(data.same)} pairs, expected at least {FOLDS}, one a fold")
        return
    if data.same.all() or not data.same.any():
        kind = "one person" if data.same[0] else "two people"
        findings.problems.append(f"{data.name}: all pairs are of {kind}; evaluation needs both kinds")
        return
    pairs = np.sort(data.rows.reshape(-1, 2), axis=1)
    first_with: dict[bytes, int] = {}
    for number, fold in enumerate(np.array_split(np.arange(len(pairs)), FOLDS), start=1):
        same = int(data.same[fold].sum())
        if same in (0, len(fold)):
            kind = "one person" if same else "two people"
            findings.problems.append(f"{data.name}: fold {number} has pairs of {kind} only; mix the kinds")
        elif abs(2 * same - len(fold)) > 1:
            findings.notes.append(f"{data.name}: fold {number} has {same} of {len(fold)} pairs of one person")
        content = np.unique(np.column_stack([pairs[fold], data.same[fold]]), axis=0).tobytes()
        first = first_with.setdefault(content, number)
        if first != number:
            findings.problems.append(f"{data.name}: folds {first} and {number} hold the same pairs")
