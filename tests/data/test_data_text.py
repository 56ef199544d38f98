"""Index files are read many lines at once: with the same result as one by one, wherever the blocks end."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from torchkit.data import text
from torchkit.data.index import ImageIndex, read_index
from torchkit.data.text import iterate_lines, match_lines, read_lines

NAMES = st.text("a/\u00e4. \\", min_size=1, max_size=6)
ENDS = st.sampled_from(["\n", "\r\n", " \n"])


def naive_lines(data: bytes) -> list[str]:
    lines = data.decode("utf-8-sig").replace("\r\n", "\n").split("\n")
    while lines and not lines[-1].strip():
        lines.pop()
    return lines


pieces = st.lists(st.sampled_from(["a b", "\n", "\r\n", " ", "\t", "x", "\u00e4"]), max_size=30).map("".join)


@given(content=pieces, mark=st.booleans(), size=st.integers(1, 9))
def test_lines_are_those_of_the_whole_file(content: str, mark: bool, size: int) -> None:
    data = (b"\xef\xbb\xbf" if mark else b"") + content.encode()
    with tempfile.TemporaryDirectory() as folder, mock.patch.object(text, "BLOCK_BYTES", size):
        file = Path(folder) / "x.txt"
        file.write_bytes(data)
        expected = naive_lines(data)
        if expected:
            assert list(iterate_lines(file, "x", "y")) == read_lines(file, "x", "y") == expected
        else:
            with pytest.raises(ValueError, match=r"x\.txt is empty: expected y"):
                read_lines(file, "x", "y")


def naive_index(lines: list[str]) -> tuple[list[str], list[int]] | int:
    """Paths and labels, or the number of the first line that is wrong."""
    paths, labels = [], []
    for number, line in enumerate(lines, start=1):
        match = re.fullmatch(r"([^\t]+)[ \t]([0-9]+)", line.rstrip())
        if match is None:
            return number
        path = match[1].replace("\\", "/")
        if path.startswith("/") or ".." in path.split("/"):
            return number
        paths.append(match[1])
        labels.append(int(match[2]))
    return paths, labels


@settings(max_examples=200)
@given(
    lines=st.lists(st.tuples(NAMES, st.sampled_from([" ", "\t", "  ", ""]), ENDS), min_size=1, max_size=8),
    size=st.integers(1, 60),
)
def test_index_is_read_as_line_by_line(lines: list[tuple[str, str, str]], size: int) -> None:
    content = "".join(f"{name}{gap}{label}{end}" for label, (name, gap, end) in enumerate(lines))
    expected = naive_index(naive_lines(content.encode()))
    with tempfile.TemporaryDirectory() as folder, mock.patch.object(text, "BLOCK_BYTES", size):
        root = Path(folder)
        (root / "x.txt").write_bytes(content.encode())
        if isinstance(expected, int):
            with pytest.raises(ValueError, match=rf"x\.txt, line {expected}: "):
                read_index(root, root, "x")
        else:
            index = read_index(root, root, "x")
            assert isinstance(index, ImageIndex)
            assert (list(index.paths), index.labels.tolist()) == expected
            assert index.describe(len(index) - 1).startswith(f"{root}/x.txt, line {len(index)}: ")


PAIR = re.compile(rb"([^\t\n]+)[ \t]([0-9]{1,9})\n")


@pytest.mark.parametrize(
    "block",
    [
        b"a 0\nb\n", b"a 0\n\nb 1\n", b"a 0\nb\tc 1\n", b"a 0\n../b 1\n", b"a 0\n/b 1\n", b"a 0\n\\b 1\n", b"C:b 1\n",
        b"a\x00 0\n", b"a 0\nb\x7f 1\n", b"a\xff 0\n", b"a\r 0\n", b" 0\n", b"a 1234567890\n",
    ],
)  # fmt: skip
def test_lines_that_need_a_second_look(block: bytes) -> None:
    assert match_lines(PAIR, block) is None


def test_usual_lines_need_none() -> None:
    found = match_lines(PAIR, "a/b c.jpg 0\r\n\u00e4.b 12\nx\t3\n".encode())
    assert found == [(b"a/b c.jpg", b"0"), ("\u00e4.b".encode(), b"12"), (b"x", b"3")]
