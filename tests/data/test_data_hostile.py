"""Files that are malicious, torn or wrong: each gives one clear error, runs nothing and leaves nothing behind."""

from __future__ import annotations

import io
import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from torchkit.data.index import read_index
from torchkit.data.prepare.bin_files import prepare_bin
from torchkit.data.prepare.landmarks import read_landmarks, read_numbers
from torchkit.data.prepare.lfw import prepare_lfw
from torchkit.data.prepare.pairs import prepare_pairs
from torchkit.data.validation_set import load_validation_set, write_validation_set

FACE = np.random.default_rng(0).integers(0, 256, (112, 112, 3), np.uint8)
PNG = cv2.imencode(".png", FACE)[1].tobytes()
JPEG = cv2.imencode(".jpg", FACE)[1].tobytes()
SMALL = cv2.imencode(".png", FACE[:100])[1].tobytes()
ROWS = np.stack([FACE] * 4)


def refused(root: Path, read: Callable[[], object], *parts: str) -> None:
    """`read` ends with one error of a user's kind that names all `parts`; nothing ran and nothing was written."""
    before = sorted(root.rglob("*"))
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        read()
    assert "\n" not in str(caught.value)
    for part in parts:
        assert part in str(caught.value)
    assert sorted(root.rglob("*")) == before, "no marker, no half-written output"


# Pickles


class Call:
    """Unpickles as a call."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.function, self.arguments


def text(value: str) -> bytes:
    return b"\x8c" + bytes([len(value)]) + value.encode()


def global_(module: str, name: str) -> bytes:
    return text(module) + text(name) + b"\x93"


def call_marker(module: str, name: str, code: str) -> bytes:
    return global_(module, name) + text(code) + b"\x85R."


TOUCH = "touch marker"
OPEN = "open('marker', 'w')"
PICKLES: dict[str, tuple[bytes, str]] = {
    "os.system": (b"\x80\x04" + call_marker("os", "system", TOUCH), "os.system"),
    "posix.system": (b"\x80\x04" + call_marker("posix", "system", TOUCH), "posix.system"),
    "eval": (b"\x80\x04" + call_marker("builtins", "eval", OPEN), "builtins.eval"),
    "exec of Python 2": (b"\x80\x02c__builtin__\nexec\n" + text(OPEN) + b"\x85R.", "exec"),
    "open": (b"\x80\x04" + global_("io", "open") + text("marker") + text("w") + b"\x86R.", "io.open"),
    "import": (b"\x80\x04" + call_marker("builtins", "__import__", "antigravity"), "builtins.__import__"),
    "getattr": (b"\x80\x04" + global_("builtins", "getattr") + b".", "builtins.getattr"),
    "nested": (pickle.dumps(([PNG, [[[Call(os.system, TOUCH)]]]], [True])), "system"),
    "instead of a bool": (pickle.dumps(([PNG, PNG], [Call(os.system, TOUCH)])), "system"),
    "pickle in a pickle": (pickle.dumps(Call(pickle.loads, pickle.dumps(Call(os.system, TOUCH)))), "loads"),
    "INST": (b"(S'touch marker'\nios\nsystem\n.", "INST"),
    "OBJ": (b"(" + b"cos\nsystem\n" + b"S'touch marker'\no.", "os.system"),
    "NEWOBJ": (b"\x80\x04" + global_("numpy", "dtype") + b")\x81.", "NEWOBJ"),
    "persistent name": (b"\x80\x04Pmarker\n.", "PERSID"),
    "extension": (b"\x80\x04\x82\x01.", "EXT1"),
    "buffer of 8 exabytes": (b"\x80\x05\x96" + struct.pack("<Q", 2**63 - 1) + b".", "BYTEARRAY8"),
    "buffer of 4 gigabytes": (b"\x80\x05\x96" + struct.pack("<Q", 2**32) + b".", "BYTEARRAY8"),
    "attribute of a stand-in": (b"\x80\x04" + global_("numpy", "ndarray") + b"}" + text("a") + b"K\x01sb.", "DICT"),
    "numpy.load": (b"\x80\x04" + call_marker("numpy", "load", "marker"), "numpy.load"),
    "method of an array": (b"\x80\x04" + global_("numpy", "ndarray.tofile") + b".", "ndarray.tofile"),
    "codec": (b"\x80\x04" + global_("_codecs", "encode") + text("x") + text("zip") + b"\x86R.", "'zip'"),
    "text encoded again and again": (
        b"\x80\x04](" + global_("_codecs", "encode") + b"\x940" + text("a" * 200) + b"\x940" + text("latin1") + b"\x940"
        + b"h\x00h\x01h\x02\x86R" * 100 + b"e.", "again and again",
    ),
    "torn in the middle": (pickle.dumps(([PNG] * 4, [True] * 2))[:30000], "not read"),
    "no byte": (b"", "not read"),
    "text": (b"hello\n", "not read"),
    "torn JPEG": (pickle.dumps(([JPEG[:2000]] * 2, [True])), "image 0 cannot be decoded"),
    "zero-byte image": (pickle.dumps(([PNG, b""], [True])), "image 1 cannot be decoded"),
    "fewer bools": (pickle.dumps(([PNG] * 4, [True])), "(1,) bool, expected (2,)"),
}  # fmt: skip


@pytest.mark.parametrize("case", PICKLES)
def test_pickle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    content, part = PICKLES[case]
    (tmp_path / "s.bin").write_bytes(content)
    monkeypatch.chdir(tmp_path)  # where a call would leave its marker
    refused(tmp_path, lambda: load_validation_set(tmp_path, "s"), str(tmp_path / "s.bin"), part)
    refused(tmp_path, lambda: prepare_bin(tmp_path / "s.bin", tmp_path / "out"), part)


def test_call_would_leave_a_marker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the cases above would prove nothing."""
    monkeypatch.chdir(tmp_path)
    for case in ("os.system", "eval", "nested", "pickle in a pickle", "INST", "OBJ"):
        pickle.loads(PICKLES[case][0])
        (tmp_path / "marker").unlink()


# bcolz folders


def truncate(file: str, size: int) -> Callable[[Path], object]:
    return lambda root: os.truncate(root / "s" / file, size)


def replace(file: str, old: str, new: str) -> Callable[[Path], object]:
    def edit(root: Path) -> None:
        content = (root / "s" / file).read_text()
        assert old in content
        (root / "s" / file).write_text(content.replace(old, new))

    return edit


CARRAYS: dict[str, tuple[Callable[[Path], object], list[str]]] = {
    "chunk without a byte": (truncate("data/__0.blp", 0), ["__0.blp", "no bcolz chunk"]),
    "chunk cut in its header": (truncate("data/__0.blp", 31), ["__0.blp", "no bcolz chunk"]),
    "chunk cut in the middle": (truncate("data/__0.blp", 1000), ["__0.blp", "cut off after 984"]),
    "missing chunk": (lambda root: (root / "s/data/__0.blp").unlink(), ["__0.blp", "missing"]),
    "more rows than chunks": (replace("meta/sizes", "[4,", "[4000000,"), ["__1.blp is missing"]),
    "odd number of rows": (replace("meta/sizes", "[4,", "[3,"), ["sizes", "3 rows"]),
    "negative rows": (replace("meta/sizes", "[4,", "[-4,"), ["sizes", "-4 rows"]),
    "absurd image": (replace("meta/sizes", "112]", "99999999999]"), ["sizes", "99999999999"]),
    "objects": (replace("meta/storage", "float32", "object"), ["storage", "'object'"]),
    "description without a byte": (truncate("meta/storage", 0), ["storage", "not JSON"]),
    "missing description": (lambda root: (root / "s/meta/sizes").unlink(), ["sizes is missing"]),
    "no list": (lambda root: (root / "s_list.npy").unlink(), ["s_list.npy is missing"]),
    "torn list": (lambda root: os.truncate(root / "s_list.npy", 129), ["s_list.npy is no array of bools"]),
    "list without a byte": (lambda root: os.truncate(root / "s_list.npy", 0), ["s_list.npy is no array of bools"]),
    "short list": (lambda root: np.save(root / "s_list.npy", np.ones(1, bool)), ["s_list.npy", "(1,) bool"]),
    "list of bytes": (lambda root: np.save(root / "s_list.npy", np.ones(2, np.uint8)), ["s_list.npy", "uint8"]),
    "list of objects": (
        lambda root: np.save(root / "s_list.npy", np.array([Call(os.system, TOUCH)] * 2), allow_pickle=True),
        ["s_list.npy is no array of bools"],
    ),
}


@pytest.mark.parametrize("case", CARRAYS)
def test_bcolz_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    damage, parts = CARRAYS[case]
    write_validation_set(tmp_path, "s", ROWS.transpose(0, 3, 1, 2), np.array([True, False]))
    damage(tmp_path)
    monkeypatch.chdir(tmp_path)
    refused(tmp_path, lambda: load_validation_set(tmp_path, "s"), str(tmp_path), *parts)


# Arrays


def npy(header: str, data: bytes = b"", version: tuple[int, int] = (1, 0)) -> bytes:
    line = header.encode().ljust(117) + b"\n"
    return b"\x93NUMPY" + bytes(version) + struct.pack("<H", len(line)) + line + data


def saved(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


def described(shape: str, dtype: str = "'|u1'") -> str:
    return f"{{'descr': {dtype}, 'fortran_order': False, 'shape': {shape}}}"


ARRAYS: dict[str, tuple[bytes, str]] = {
    "other size": (saved(ROWS[:, :100]), "(4, 100, 112, 3) uint8"),
    "no rows": (saved(ROWS[:0]), "0 rows"),
    "odd number of rows": (saved(ROWS[:3]), "3 rows"),
    "two dimensions": (saved(ROWS[0, 0]), "(112, 3)"),
    "float64": (saved(np.zeros((4, 3, 112, 112))), "float64"),
    "int8": (saved(ROWS.astype(np.int8)), "int8"),
    "big-endian": (saved(np.zeros((4, 3, 112, 112), ">f4")), ">f4"),
    "out of range": (saved(ROWS.astype(np.float32)), "in row 0, expected -1 to 1"),
    "not a number": (saved(np.full((4, 3, 112, 112), np.nan, np.float32)), "value nan in row 0"),
    "objects": (saved(np.array([Call(os.system, TOUCH)])), "object"),
    "torn": (saved(ROWS)[:-1], "its header promises"),
    "longer than it says": (saved(ROWS) + b"x", "its header promises"),
    "only a header": (saved(ROWS)[:128], "its header promises"),
    "cut in its header": (saved(ROWS)[:60], "no .npy file"),
    "no byte": (b"", "no .npy file"),
    "petabytes": (npy(described("(10000000000000, 3, 112, 112)")), "promises 376320000000000128"),
    "negative rows": (npy(described("(-4, 3, 112, 112)")), "-4 rows"),
    "shape of text": (npy(described("'marker'")), "no .npy file"),
    "code for a shape": (npy(described("open('marker', 'w')")), "no .npy file"),
    "fields": (npy(described("(4, 3, 112, 112)", "[('a', '|u1')]"), ROWS.tobytes()), "expected (N, 3, 112, 112)"),
    "unknown version": (npy(described("(4, 3, 112, 112)"), ROWS.tobytes(), (9, 0)), "no .npy file"),
    "pickle": (pickle.dumps(Call(os.system, TOUCH)), "no .npy file"),
}


@pytest.mark.parametrize("case", ARRAYS)
def test_array(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    content, part = ARRAYS[case]
    (tmp_path / "s.npy").write_bytes(content)
    np.save(tmp_path / "s_list.npy", np.array([True, False]))
    monkeypatch.chdir(tmp_path)
    refused(tmp_path, lambda: load_validation_set(tmp_path, "s"), str(tmp_path / "s.npy"), part)


# Lists of pairs

FOLD = "a\t1\t2\na\t1\tb\t1\n"
PAIR_LISTS: dict[str, tuple[bytes, list[str]]] = {
    "empty": (b"", ["is empty"]),
    "blank": (b"\n\n \n", ["is empty"]),
    "NUL": (b"a.png b.png 1\na.png \0b.png 1\n", ["line 2", "control character '\\x00'"]),
    "escape": (b"a.png b.png 1\n\x1b[2Ja.png b.png 1\n", ["line 2", "control character"]),
    "UTF-16": ("a.png b.png 1\n".encode("utf-16"), ["line 1", "not UTF-8"]),
    "Latin-1": (b"a.png b.png 1\nJos\xe9.png b.png 1\n", ["line 2", "byte 0xe9 is not UTF-8"]),
    "line ends of an old Mac": (b"a.png b.png 1\ra.png b.png 0\r", ["line 1", "control character '\\r'"]),
    "two columns": (b"a.png b.png\n", ["line 1", "path path same"]),
    "five columns": (b"a.png b.png 1\na b c d 1\n", ["line 2", "path path same"]),
    "other flag": (b"a.png b.png -1\n", ["line 1", "same 1 or 0"]),
    "blank line between": (b"a.png b.png 1\n\na.png b.png 0\n", ["line 2", "path path same"]),
    "way up": (b"a.png ../s/b.png 1\n", ["line 1", "'../s/b.png' may lead out"]),
    "way up in the middle": (b"a.png x/../../b.png 1\n", ["line 1", "may lead out"]),
    "absolute": (b"a.png /etc/passwd 1\n", ["line 1", "'/etc/passwd' may lead out"]),
    "absolute on Windows": (b"C:\\a.png b.png 1\n", ["line 1", "may lead out"]),
    "way up on Windows": (b"a.png ..\\b.png 1\n", ["line 1", "may lead out"]),
    "missing image": (b"a.png gone.png 1\n", ["line 1", "gone.png cannot be read"]),
    "folder for an image": (b"a.png a 1\n", ["line 1", "cannot be read"]),
    "zero-byte image": (b"a.png empty.png 1\n", ["line 1", "empty.png is empty"]),
    "torn JPEG": (b"a.png b.png 1\na.png torn.jpg 1\n", ["line 2", "torn.jpg is cut off after 2000 bytes"]),
    "torn PNG": (b"torn.png b.png 1\n", ["line 1", "torn.png is cut off after 2000 bytes"]),
    "no image": (b"a.png text.png 1\n", ["line 1", "text.png cannot be decoded"]),
    "other size": (b"a.png small.png 1\n", ["line 1", "small.png is 112x100, expected an aligned 112x112"]),
    "LFW: no pair": (b"10\t300\n", ["line 1", "promises 6000 pairs, but 0 follow"]),
    "LFW: zero folds": (b"0\t300\n" + FOLD.encode(), ["line 1", "promises 0 pairs"]),
    "LFW: absurd counts": (b"999999\t999999\n" + FOLD.encode(), ["line 1", "1999996000002 pairs, but 2 follow"]),
    "LFW: cut off": (b"2\t1\n" + FOLD.encode(), ["line 1", "promises 4 pairs, but 2 follow"]),
    "LFW: too long": (b"1\n" + FOLD.encode() * 2, ["line 1", "promises 2 pairs, but 4 follow"]),
    "LFW: fold twice": (b"2\t1\n" + FOLD.encode() * 2, ["folds 1 and 2 hold the same pairs"]),
    "LFW: one kind": (b"1\t1\na 1 2\na 2 1\n", ["fold 1 has 2 pairs of one person"]),
    "LFW: negative": (b"1\na -1 2\na 1 b 1\n", ["line 2", "'-1'", "from 1 up"]),
    "LFW: number 0": (b"1\na 1 0\na 1 b 1\n", ["line 2", "'0'", "from 1 up"]),
    "LFW: number of other digits": ("1\na 1 \u0662\na 1 b 1\n".encode(), ["line 2", "from 1 up"]),
    "LFW: endless number": (b"1\na 1 " + b"9" * 5000 + b"\na 1 b 1\n", ["line 2", "from 1 up"]),
    "LFW: one person as two": (b"1\na 1 2\na 1 a 2\n", ["line 3", "'a 1 a 2'"]),
    "LFW: two columns": (b"1\na 1\na 1 b 1\n", ["line 2", "'a 1'"]),
    "LFW: way up": (b"1\n.. 1 2\na 1 b 1\n", ["line 2", "'..' may lead out"]),
    "LFW: name with a folder": (b"1\nx/a 1 2\na 1 b 1\n", ["line 2", "'x/a'"]),
    "LFW: absolute name": (b"1\n/etc 1 2\na 1 b 1\n", ["line 2", "'/etc' may lead out"]),
    "LFW: missing image": (b"1\na 1 3\na 1 b 1\n", ["line 2", "a_0003.jpg cannot be read"]),
    "LFW: two files for one": (b"1\nc 1 1\na 1 b 1\n", ["line 2", "c_0001.jpg and c/c_0001.png"]),
}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("lists")
    files = {
        "a.png": PNG, "b.png": PNG, "empty.png": b"", "torn.jpg": JPEG[:2000], "torn.png": PNG[:2000],
        "text.png": b"no image", "small.png": SMALL, "a/a_0001.png": PNG, "a/a_0002.png": PNG, "b/b_0001.png": PNG,
        "c/c_0001.jpg": JPEG, "c/c_0001.png": PNG,
    }  # fmt: skip
    for name, data in files.items():
        (root / "s" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "s" / name).write_bytes(data)
    return root


@pytest.mark.parametrize("case", PAIR_LISTS)
def test_list_of_pairs(images: Path, case: str) -> None:
    content, parts = PAIR_LISTS[case]
    file = images / "s" / "pairs.txt"
    file.write_bytes(content)
    refused(images, lambda: load_validation_set(images, "s"), str(file), *parts)
    refused(images, lambda: prepare_pairs(images / "s", file, images / "out", "s"), str(file), *parts)


# Indices

INDICES: dict[str, tuple[bytes, list[str]]] = {
    "empty": (b"", ["is empty"]),
    "NUL": (b"a 0\nb\0 1\n", ["line 2", "control character '\\x00'"]),
    "UTF-16": ("a 0\n".encode("utf-16-le"), ["line 1", "control character"]),
    "Latin-1": (b"a 0\n\xe9 1\n", ["line 2", "not UTF-8"]),
    "way up": (b"a 0\n../b 1\n", ["line 2", "'../b' may lead out"]),
    "way up behind a folder": (b"a/../../b 0\n", ["line 1", "may lead out"]),
    "absolute": (b"a 0\n/etc/passwd 1\n", ["line 2", "may lead out"]),
    "absolute on Windows": (b"C:/a 0\n", ["line 1", "may lead out"]),
    "share on Windows": (b"\\\\host\\a 0\n", ["line 1", "may lead out"]),
    "no label": (b"a 0\nb\n", ["line 2", "'b'"]),
    "negative label": (b"a 0\nb -1\n", ["line 2", "'b -1'"]),
    "label far beyond": (b"a 0\nb 999999999\n", ["label 1 is missing", "999999999"]),
    "endless label": (b"a 0\nb " + b"9" * 5000 + b"\n", ["line 2", "label from 0 up"]),
}


@pytest.mark.parametrize("case", INDICES)
def test_index(tmp_path: Path, case: str) -> None:
    content, parts = INDICES[case]
    (tmp_path / "train.txt").write_bytes(content)
    refused(tmp_path, lambda: read_index(tmp_path, tmp_path, "train"), str(tmp_path / "train.txt"), *parts)


def test_index_with_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_bytes("\ufeffa 0\r\nb 1\r\n".encode())
    assert list(read_index(tmp_path, tmp_path, "train").paths) == ["a", "b"]


# Tables

POINTS = "1 2 3 4 5 6 7 8 9 10"
LANDMARKS: dict[str, tuple[str, list[str]]] = {
    "nine numbers": ("a.jpg 1 2 3 4 5 6 7 8 9", ["line 1", "x5 y5"]),
    "eleven numbers": (f"a.jpg {POINTS} 11", ["line 1", "x5 y5"]),
    "word": (f"a.jpg {POINTS}\nb.jpg 1 2 3 4 x 6 7 8 9 10", ["line 2", "x5 y5"]),
    "not a number": ("a.jpg nan 2 3 4 5 6 7 8 9 10", ["line 1", "x5 y5"]),
    "infinite": ("a.jpg 1 2 3 4 5 6 7 8 9 1e999", ["line 1", "x5 y5"]),
    "cut off": (f"3\nx y x y x y x y x y\na.jpg {POINTS}\nb.jpg {POINTS}", ["line 1", "promises 3 images, 2 follow"]),
    "only a count": ("202599", ["line 1", "promises 202599"]),
    "image twice": (f"a.jpg {POINTS}\na.jpg {POINTS}", ["line 2", "a.jpg stands in line 1 already"]),
    "way up": (f"../a.jpg {POINTS}", ["line 1", "may lead out"]),
    "NUL": (f"a.jpg {POINTS}\n\0", ["line 2", "control character"]),
}


@pytest.mark.parametrize("case", LANDMARKS)
def test_landmarks(tmp_path: Path, case: str) -> None:
    content, parts = LANDMARKS[case]
    file = tmp_path / "landmarks.txt"
    file.write_text(content + "\n")
    refused(tmp_path, lambda: read_landmarks(file), str(file), *parts)


@pytest.mark.parametrize("line", ["b.jpg -1", "b.jpg 1.5", "b.jpg one", "b.jpg", "b.jpg 1 2", "b.jpg 1e999"])
def test_table_of_numbers(tmp_path: Path, line: str) -> None:
    file = tmp_path / "identity.txt"
    file.write_text(f"a.jpg 1\n{line}\n")
    refused(tmp_path, lambda: read_numbers(file, "identities"), f"{file}, line 2")


@pytest.mark.parametrize(
    ("landmarks", "part"),
    [
        ("a/a_0001.png 1 2 3 4 5 6 7 8 9 10\n", "has no line for a/a_0002.png"),
        ("".join(f"{name} {'50 60 ' * 5}\n" for name in ("a/a_0001.png", "a/a_0002.png", "b/b_0001.png")), "one place"),
        ("".join(f"{name} 900 {POINTS} \n" for name in ("a/a_0001.png",)), "line 1"),
    ],
)
def test_lfw_without_sound_landmarks(images: Path, landmarks: str, part: str) -> None:
    (images / "lfw.txt").write_text("1\na 1 2\na 1 b 1\n")
    (images / "landmarks.txt").write_text(landmarks)
    files = (images / "lfw.txt", images / "landmarks.txt")
    refused(images, lambda: prepare_lfw(images / "s", *files, images / "out"), part)
