"""Read text files line by line, with line numbers for messages, and check that paths stay in their folder."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from itertools import chain
from pathlib import Path, PurePosixPath, PureWindowsPath

CONTROL_CHARACTER = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
"""All control characters but tab and line end; in a list of names they indicate damage."""
SUSPICIOUS = re.compile(rb"[\x00-\x08\x0b-\x1f\x7f:]|\.\.|^[/\\]", re.MULTILINE)
"""A control character, or a part of paths that leave their folder, see `check_inside`."""
BLOCK_BYTES = 1 << 17


def read_lines(file: Path, what: str, form: str) -> list[str]:
    """Return the lines of `iterate_lines` as a list; line n of the file is item n - 1."""
    return list(iterate_lines(file, what, form))


def iterate_lines(file: Path, what: str, form: str) -> Iterator[str]:
    """Iterate over the lines of a UTF-8 file, without line ends and without holding a long file in memory.

    A byte order mark, Windows line ends and blank lines at the end are ignored.

    Args:
        file: the file.
        what: name of the file's kind in messages, e.g. "list of pairs".
        form: contents of a line, for messages.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not UTF-8, a control character, or no line at all.
    """
    for first, block in iterate_blocks(file, what, form):
        yield from decode_lines(block, file, first)


def iterate_blocks(file: Path, what: str, form: str) -> Iterator[tuple[int, bytes]]:
    """Like `iterate_lines`, but in blocks of many complete, undecoded lines, each ended by a line feed.

    Yields:
        The number of the first line (from 1), and the lines, without byte order mark and blank lines at the end.
    """
    if not file.is_file():
        raise FileNotFoundError(f"{what} not found: {file}")
    first, blank = 1, b""
    with file.open("rb") as data:
        if data.read(len(codecs.BOM_UTF8)) != codecs.BOM_UTF8:
            data.seek(0)
        while block := data.read(BLOCK_BYTES) + data.readline():
            block = blank + block.removesuffix(b"\n") + b"\n"
            text_end = len(block.rstrip(b" \t\r\n"))
            end = block.index(b"\n", text_end) + 1 if text_end else 0
            blank = block[end:]  # blank lines at the end, or between this block and the next
            if end:
                yield first, block[:end]
                first += block.count(b"\n", 0, end)
    if first == 1:
        raise ValueError(f"{file} is empty: expected {form}")


def decode_lines(block: bytes, file: Path, first: int) -> Iterator[str]:
    """Decode the lines of a block of `iterate_blocks`, without line ends.

    Raises:
        ValueError: not UTF-8 or a control character; the message names `file` and the line.
    """
    for number, data in enumerate(block.removesuffix(b"\n").split(b"\n"), start=first):
        try:
            line = data.removesuffix(b"\r").decode("utf-8")
        except UnicodeDecodeError as error:
            byte = error.object[error.start]
            raise ValueError(f"{file}, line {number}: byte 0x{byte:02x} is not UTF-8; save the file as UTF-8") from None
        if match := CONTROL_CHARACTER.search(line):
            raise ValueError(
                f"{file}, line {number}: control character {match.group()!r}; the file is damaged or no plain text"
            )
        yield line


def match_lines(pattern: re.Pattern[bytes], block: bytes) -> list[tuple[bytes, ...]] | None:
    """Split a block of `iterate_blocks` into columns, many times faster than line by line.

    Args:
        pattern: a group for each column, at least two, and one byte after each: a separator or the line feed.
        block: the lines.

    Returns:
        The columns of each line; None if a line has another form, is not UTF-8, has a control character, or may name a
        path that leaves its folder. Then the lines must be checked one by one.
    """
    block = block.replace(b"\r\n", b"\n")
    matches = pattern.findall(block)
    matched = sum(map(len, chain.from_iterable(matches))) + pattern.groups * len(matches)
    if matched != len(block) or SUSPICIOUS.search(block):
        return None
    try:
        block.decode("utf-8")
    except UnicodeDecodeError:
        return None
    return matches


def fields(line: str) -> list[str]:
    """Split a line into columns: at tabs if it has any (so that names may contain spaces), else at spaces."""
    return [field.strip() for field in line.split("\t")] if "\t" in line.strip() else line.split()


def check_inside(path: str, where: str) -> None:
    """Check that a path from a list cannot leave its folder, on any system.

    Raises:
        ValueError: absolute, with a drive, or with `..`; the message begins with `where`.
    """
    if ".." not in path and ":" not in path and not path.startswith(("/", "\\")):
        return  # the usual case, fast
    for kind in (PurePosixPath(path), PureWindowsPath(path)):
        if kind.anchor or ".." in kind.parts:
            raise ValueError(
                f"{where}: {path!r} may lead out of the folder of the images; expected a relative path without `..`"
            )
