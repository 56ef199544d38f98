"""Read lists of pairs, in LFW's format or as `path path same`, and draw balanced ones.

LFW's format (`pairs.txt`): the first line holds counts, `10 300` (ten folds, each with 300 pairs of one person and
300 of two) or `1100` (1100 of each, no folds). Then a line for each pair: `name n1 n2` for images n1 and n2 of one
person, or `name1 n1 name2 n2` for two; image n of `name` is `name/name_000n.jpg` (or .jpeg, .png).

`path path same`: a line for each pair, `same` being 1 or 0, and no line of counts. Folds are contiguous tenths.

Columns are separated by tabs, or by spaces in a line without tabs.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, combinations
from pathlib import Path

import numpy as np

from torchkit.data.problems import Report, stop
from torchkit.data.text import check_inside, fields, read_lines
from torchkit.util.seeding import stream

FOLDS = 10
LFW_EXTENSIONS = (".jpg", ".jpeg", ".png")
COUNT = re.compile("[0-9]{1,6}")
PATH_FORM = "`path path same` with same 1 or 0"
LFW_FORM = "`name n1 n2` (one person) or `name1 n1 name2 n2` (two), numbers from 1 up"


@dataclass(frozen=True)
class Pair:
    """A line of a list."""

    first: str
    """Path relative to the folder of the images."""
    second: str
    same: bool
    where: str
    """File and line, for messages."""


def read_pairs(file: Path, root: Path, report: Report = stop) -> list[Pair]:
    """Read a list of pairs in LFW's format, or of `path path same` lines.

    Args:
        file: the list.
        root: folder of the images; in LFW's format it decides their extension.
        report: called with the error of each wrong line; by default the first is raised.

    Returns:
        The pairs in the order of the lines. Those of an LFW list without folds alternate, one of each kind, so that
        every contiguous tenth is balanced.

    Raises:
        FileNotFoundError, ValueError: a missing or empty list, a line of another form, counts or folds that are
            wrong, a path that leads out of `root`.
    """
    lines = read_lines(file, "list of pairs", f"a line {PATH_FORM} for each pair, or LFW's format")
    counts = lines[0].split()
    if len(counts) > 2 or not all(map(COUNT.fullmatch, counts)):
        return [pair for n, line in enumerate(lines, 1) if (pair := _path_pair(line, f"{file}, line {n}", report))]
    folds, size = (int(counts[0]), int(counts[1])) if len(counts) == 2 else (1, int(counts[0]))
    if folds * size == 0 or len(lines) - 1 != folds * size * 2:
        raise ValueError(
            f"{file}, line 1: {lines[0]!r} promises {folds * size * 2} pairs, but {len(lines) - 1} follow; "
            "the file is cut off or joined from several"
        )
    parsed = [_lfw_pair(line, root, f"{file}, line {n}", report) for n, line in enumerate(lines[1:], 2)]
    pairs = [pair for pair in parsed if pair]
    if len(pairs) == len(parsed):
        _check_folds([pairs[k : k + 2 * size] for k in range(0, len(pairs), 2 * size)], file, report)
    return pairs if len(counts) == 2 else _alternate(pairs)


def _path_pair(line: str, where: str, report: Report) -> Pair | None:
    match fields(line):
        case [str(first), str(second), ("0" | "1") as flag] if first and second:
            pair = Pair(first, second, flag == "1", where)
        case _:
            report(ValueError(f"{where}: {line!r}: expected {PATH_FORM}"))
            return None
    try:
        check_inside(first, where)
        check_inside(second, where)
    except ValueError as error:
        report(error)
        return None
    return pair


def _lfw_pair(line: str, root: Path, where: str, report: Report) -> Pair | None:
    match fields(line):
        case [str(name), n1, n2]:
            images, same = ((name, n1), (name, n2)), True
        case [str(name1), n1, str(name2), n2] if name1 != name2:
            images, same = ((name1, n1), (name2, n2)), False
        case _:
            report(ValueError(f"{where}: {line!r}: expected {LFW_FORM}"))
            return None
    try:
        first, second = (_lfw_path(name, number, root, f"{where}: {line!r}") for name, number in images)
    except ValueError as error:
        report(error)
        return None
    return Pair(first, second, same, where)


def _lfw_path(name: str, number: str, root: Path, where: str) -> str:
    if not COUNT.fullmatch(number) or int(number) == 0:
        raise ValueError(f"{where}: number {number!r}: expected {LFW_FORM}")
    check_inside(name, where)
    if not name or name == "." or "/" in name or "\\" in name:
        raise ValueError(f"{where}: name {name!r}: expected a person's folder, without folders above it")
    stem = f"{name}/{name}_{int(number):04d}"
    existing = [stem + extension for extension in LFW_EXTENSIONS if (root / (stem + extension)).is_file()]
    if len(existing) > 1:
        raise ValueError(f"{where}: {' and '.join(existing)} are both in {root}; keep one of them")
    return existing[0] if existing else stem + LFW_EXTENSIONS[0]


def _check_folds(folds: list[list[Pair]], file: Path, report: Report) -> None:
    first_with: dict[frozenset[tuple[str, str]], int] = {}
    for number, fold in enumerate(folds, start=1):
        size, same = len(fold) // 2, sum(pair.same for pair in fold)
        if same != size:
            counts = f"{same} pairs of one person and {len(fold) - same} of two, expected {size} of each"
            report(ValueError(f"{file}: fold {number} has {counts}"))
        other = first_with.setdefault(frozenset((pair.first, pair.second) for pair in fold), number)
        if other != number:
            report(ValueError(f"{file}: folds {other} and {number} hold the same pairs; every fold needs its own"))


def _alternate(pairs: list[Pair]) -> list[Pair]:
    kinds = ([pair for pair in pairs if pair.same is kind] for kind in (True, False))
    return list(chain.from_iterable(zip(*kinds, strict=False)))


def draw_pairs(labels: np.ndarray, count: int, seed: int) -> list[tuple[int, int, bool]]:
    """Draw pairs of images: ten folds, each with as many pairs of one person as of two, no pair twice.

    People take turns, so that those with many images do not outweigh the others. With at least 20 people each belongs
    to one fold, as in LFW; fewer are drawn from for all folds.

    Args:
        labels: (N,) int, whom image i shows.
        count: number of pairs, a multiple of 20.
        seed: of the random draws.

    Returns:
        (position, position, same), fold after fold.

    Raises:
        ValueError: another count, or more than the images give.
    """
    if count < 2 * FOLDS or count % (2 * FOLDS):
        raise ValueError(
            f"{count} pairs, expected a multiple of {2 * FOLDS}: {FOLDS} folds with as many of either kind"
        )
    rng = stream(seed, "pairs")
    order = np.argsort(labels, kind="stable")
    people = np.split(order, np.flatnonzero(np.diff(labels[order])) + 1)
    people = [people[k] for k in rng.permutation(len(people))]
    groups = [people[k::FOLDS] for k in range(FOLDS)] if len(people) >= 2 * FOLDS else [people]
    half = count // 2 // len(groups)
    same = [pair for group in groups for pair in _same_pairs(group, half, rng)]
    different = [pair for group in groups for pair in _different_pairs(group, half, rng)]
    size = count // 2 // FOLDS
    folds = ((same[k : k + size], different[k : k + size]) for k in range(0, len(same), size))
    return [(i, j, kind) for fold in folds for kind, pairs in zip((True, False), fold, strict=True) for i, j in pairs]


def _same_pairs(people: Sequence[np.ndarray], count: int, rng: np.random.Generator) -> list[tuple[int, int]]:
    sizes = [len(images) * (len(images) - 1) // 2 for images in people]
    pairs = []
    for person, rank in _take_turns(sizes, count, rng, "pairs of one person"):
        second = int((1 + (1 + 8 * rank) ** 0.5) / 2)  # pair `rank` in the order (0, 1), (0, 2), (1, 2), (0, 3), ...
        first = rank - second * (second - 1) // 2
        pairs.append((int(people[person][first]), int(people[person][second])))
    return pairs


def _different_pairs(people: Sequence[np.ndarray], count: int, rng: np.random.Generator) -> list[tuple[int, int]]:
    cells = list(combinations(people, 2))
    sizes = [len(left) * len(right) for left, right in cells]
    pairs = []
    for cell, rank in _take_turns(sizes, count, rng, "pairs of two people"):
        left, right = cells[cell]
        first, second = divmod(rank, len(right))
        pairs.append((int(left[first]), int(right[second])))
    return pairs


def _take_turns(sizes: Sequence[int], count: int, rng: np.random.Generator, what: str) -> list[tuple[int, int]]:
    """Draw `count` distinct (cell, number below the cell's size): one of each cell, then a second, and so on."""
    if sum(sizes) < count:
        raise ValueError(f"{count} {what} are wanted, but there are only {sum(sizes)}; ask for fewer or hold out more")
    taken: list[tuple[int, int]] = []
    drawn: dict[int, np.ndarray] = {}
    cells = [int(cell) for cell in rng.permutation(len(sizes)) if sizes[cell]]
    for turn in range(count):
        cells = [cell for cell in cells if sizes[cell] > turn][: count - len(taken)]
        for cell in cells:
            if cell not in drawn:
                drawn[cell] = rng.choice(sizes[cell], min(sizes[cell], count), replace=False)
            taken.append((cell, int(drawn[cell][turn])))
        if len(taken) == count:
            break
    return taken
