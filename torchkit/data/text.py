"""Text files that people write or copy: lines whose numbers messages can name, and paths that stay in their folder."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath, PureWindowsPath

CONTROL_CHARACTER = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
"""All but tab and line end; in a list of names they are damage."""


def read_lines(file: Path, what: str, form: str) -> list[str]:
    """Lines of a UTF-8 file, without line ends; line n of the file is item n - 1.

    A byte order mark, Windows line ends and blank lines at the end do not matter.

    Args:
        file: the file.
        what: how messages call it, e.g. "list of pairs".
        form: what a line holds, for messages.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not UTF-8, a control character, or no line at all.
    """
    if not file.is_file():
        raise FileNotFoundError(f"{what} not found: {file}")
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{file}, line {_line_of(error.object, error.start)}: byte 0x{error.object[error.start]:02x} is not UTF-8; "
            "save the file as UTF-8"
        ) from None
    text = text.replace("\r\n", "\n")
    if found := CONTROL_CHARACTER.search(text):
        raise ValueError(
            f"{file}, line {_line_of(text.encode(), len(text[: found.start()].encode()))}: control character "
            f"{found.group()!r}; the file is damaged or no plain text"
        )
    lines = text.rstrip().split("\n")
    if lines == [""]:
        raise ValueError(f"{file} is empty: expected {form}")
    return lines


def _line_of(data: bytes, position: int) -> int:
    return data.count(b"\n", 0, position) + 1


def fields(line: str) -> list[str]:
    """The columns of a line: between tabs if it has any (so that names may hold spaces), else between spaces."""
    return [field.strip() for field in line.split("\t")] if "\t" in line.strip() else line.split()


def check_inside(path: str, where: str) -> None:
    """Make sure that a path from a list cannot leave the folder that it is relative to, on any system.

    Raises:
        ValueError: absolute, with a drive, or with `..`; the message begins with `where`.
    """
    if ".." not in path and ":" not in path and not path.startswith(("/", "\\")):
        return  # the usual case, fast
    for kind in (PurePosixPath(path), PureWindowsPath(path)):
        if kind.anchor or ".." in kind.parts:
            raise ValueError(
                f"{where}: {path!r} may lead out of the folder of the pictures; expected a relative path without `..`"
            )
