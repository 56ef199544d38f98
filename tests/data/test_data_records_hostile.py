"""Damaged record files and their indices: a clear error that names file and place, and nothing worse."""

from __future__ import annotations

import os
import shutil
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import pytest
import record_files as rf
from conftest import draw_face
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from torchkit.data.index import read_index

LABELS = [0, 0, 1, 1, 2]


def encoded(image: np.ndarray) -> bytes:
    return cv2.imencode(".jpg", image)[1].tobytes()


IMAGES = [encoded(draw_face(seed)) for seed in range(5)]
NOT_112 = encoded(np.zeros((96, 112, 3), np.uint8))


def change(file: Path, offset: int, data: bytes) -> None:
    content = bytearray(file.read_bytes())
    content[offset : offset + len(data)] = data
    file.write_bytes(content)


def refused(root: Path, position: int | None, *parts: str) -> None:
    """Reading the set, or the image at `position`, fails with a message of one line that has all `parts`."""
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        index = read_index(root, root, "set")
        assert position is not None, "the set should be refused as a whole"
        index.read(position)
    message = str(error.value)
    assert "\n" not in message and len(message) < 600
    for part in parts:
        assert part in message, (part, message)
    if position is not None:
        assert message.startswith(index.describe(position)), message


# TFRecord files with TFace's index

HEAD = 12


def tfrecords(root: Path, payloads: Sequence[bytes]) -> list[int]:
    """Shard 0 with these records, and their index."""
    (root / "faces").mkdir(exist_ok=True)
    offsets = [sum(16 + len(one) for one in payloads[:k]) for k in range(len(payloads))]
    (root / "faces" / "faces-00000.tfrecord").write_bytes(b"".join(map(rf.tfrecord, payloads)))
    lines = [f"faces\t0\t{offset}\t{label}\n" for offset, label in zip(offsets, LABELS, strict=True)]
    (root / "set.txt").write_text("".join(lines))
    return offsets


def with_payload(payload: bytes) -> Callable[[Path], None]:
    """Record 3 holds `payload`."""

    def damage(root: Path) -> None:
        tfrecords(root, [*(rf.example({"image": one}) for one in IMAGES[:3]), payload, rf.example({"image": b""})])

    return damage


def with_line(text: str) -> Callable[[Path], None]:
    """Line 4 of the index is `text`."""

    def damage(root: Path) -> None:
        lines = (root / "set.txt").read_text().splitlines()
        lines[3] = text
        (root / "set.txt").write_text("\n".join(lines) + "\n")

    return damage


def head_of_3(length: int, wrong_crc: bool = False) -> Callable[[Path, int], None]:
    data = struct.pack("<Q", length)
    crc = rf.masked(data)
    crc = bytes([crc[0] ^ wrong_crc]) + crc[1:]
    return lambda shard, offset: change(shard, offset, data + crc)


SHARD_DAMAGE: dict[str, tuple[Callable[[Path, int], object], int | None, list[str]]] = {
    "length": (lambda f, at: change(f, at, b"\x07"), 3, ["no record begins here", "checksum"]),
    "checksum of the length": (head_of_3(1000, True), 3, ["no record begins here", "length 1000"]),
    "absurd length": (head_of_3(2**63), 3, [f"a record of {2**63} bytes"]),
    "length beyond the limit": (head_of_3(2**24 + 1), 3, [f"a record of {2**24 + 1} bytes"]),
    "length beyond the end": (head_of_3(2**20), 3, ["the file ends at byte", "cut off"]),
    "payload": (lambda f, at: change(f, at + 500, b"\0\1\2\3\4"), 3, ["the checksum of the record is wrong"]),
    "torn payload": (lambda f, at: os.truncate(f, at + 300), 3, []),
    "torn head": (lambda f, at: os.truncate(f, at + HEAD), None, ["line 4", "is beyond the end", "bytes"]),
    "empty file": (lambda f, at: os.truncate(f, 0), None, ["line 1", "at byte 0", "is beyond the end", "0 bytes"]),
    "missing file": (lambda f, at: f.unlink(), None, ["set.txt, line 1", "cannot be read: No such file"]),
    "zeros": (lambda f, at: f.write_bytes(bytes(f.stat().st_size)), 3, ["no record begins here"]),
    "text": (lambda f, at: f.write_bytes(b"<html>" * 9999), 3, ["no record begins here"]),
}


@pytest.mark.parametrize("case", SHARD_DAMAGE)
def test_tfrecord_file(tmp_path: Path, case: str) -> None:
    damage, position, parts = SHARD_DAMAGE[case]
    offset = tfrecords(tmp_path, [rf.example({"image": one}) for one in IMAGES])[3]
    shard = tmp_path / "faces" / "faces-00000.tfrecord"
    damage(shard, offset)
    if case == "torn payload":  # record 4 is gone as a whole
        (tmp_path / "set.txt").write_text("".join((tmp_path / "set.txt").read_text().splitlines(True)[:4]))
        parts = [f"the file ends at byte {offset + 300}"]
    where = [] if position is None else [f"set.txt, line 4: {shard} at byte {offset}"]
    refused(tmp_path, position, str(shard), *where, *parts)


PAYLOADS: dict[str, tuple[bytes, list[str]]] = {
    "no features": (b"", ["has no feature 'image', only: none"]),
    "other features": (rf.example({"photo": b"x", "label": 3}), ["has no feature 'image', only: label, photo"]),
    "image of numbers": (rf.example({"image": 7}), ["'image' has 0 byte strings"]),
    "two images": (
        rf.message(1, rf.message(1, rf.message(1, b"image") + rf.message(2, rf.message(1, rf.message(1, b"x") * 2)))),
        ["'image' has 2 byte strings"],
    ),
    "bare image": (IMAGES[0], ["the record holds no image"]),
    "text": (b"ThisIsText", ["it is no tf.train.Example"]),
    "field beyond the end": (rf.example({"image": IMAGES[0]})[:-40], ["it is no tf.train.Example: a field of"]),
    "number without end": (b"\xff" * 30, ["a number has no end"]),
    "cut off in a number": (b"\x08\x80", ["a number has no end"]),
    "field 0": (b"\x02\x00", ["a field has the number 0"]),
    "group": (b"\x0b\x0c", ["a field has the type 3"]),
    "absurd field": (b"\x0a" + rf.varint(2**63), [f"a field of {2**63} bytes, with 0 left"]),
    "no bytes": (rf.example({"image": b""}), ["is empty: 0 bytes"]),
    "no image": (rf.example({"image": b"GIF89a nothing"}), ["cannot be decoded as an image"]),
    "torn image": (rf.example({"image": IMAGES[0][:-20]}), ["is cut off after"]),
    "size": (rf.example({"image": NOT_112}), ["is 112x96, expected an aligned 112x112 face"]),
    "pickle": (rf.example({"image": b"cos\nsystem\n(S'touch /nowhere'\ntR."}), ["cannot be decoded as an image"]),
}


@pytest.mark.parametrize("case", PAYLOADS)
def test_tfrecord_payload(tmp_path: Path, case: str) -> None:
    payload, parts = PAYLOADS[case]
    with_payload(payload)(tmp_path)
    offset = sum(16 + len(rf.example({"image": one})) for one in IMAGES[:3])
    refused(tmp_path, 3, f"set.txt, line 4: {tmp_path}/faces/faces-00000.tfrecord at byte {offset}", *parts)


LINES: dict[str, tuple[str, list[str]]] = {
    "no label": ("faces\t0\t16", ["expected four columns"]),
    "five columns": ("faces\t0\t16\t1\t1", ["expected four columns"]),
    "image file": ("faces/0.jpg 1", ["expected four columns", "as in the first line"]),
    "negative offset": ("faces\t0\t-16\t1", ["expected four columns"]),
    "offset in words": ("faces\t0\tsixteen\t1", ["expected four columns"]),
    "fraction": ("faces\t0\t16.0\t1", ["expected four columns"]),
    "endless offset": ("faces\t0\t" + "9" * 400 + "\t1", ["expected four columns"]),
    "negative label": ("faces\t0\t16\t-1", ["expected four columns"]),
    "label with a gap": ("faces\t0\t16\t4", ["label 3 is missing"]),
    "label far beyond": ("faces\t0\t16\t999999999", ["label 3 is missing, though labels go up to 999999999"]),
    "offset beyond the end": ("faces\t0\t999999999999999999\t1", ["at byte 999999999999999999 is beyond the end"]),
    "other shard": ("faces\t7\t0\t1", ["faces/faces-00007.tfrecord cannot be read"]),
    "way up": ("../faces\t0\t16\t1", ["'../faces' may lead out"]),
    "absolute": ("/etc\t0\t16\t1", ["'/etc' may lead out"]),
    "no name": ("\t0\t16\t1", ["expected four columns"]),
    "NUL": ("fa\0ces\t0\t16\t1", ["control character"]),
}


@pytest.mark.parametrize("case", LINES)
def test_line_of_a_tfrecord_index(tmp_path: Path, case: str) -> None:
    text, parts = LINES[case]
    tfrecords(tmp_path, [rf.example({"image": one}) for one in IMAGES])
    with_line(text)(tmp_path)
    where = f"{tmp_path}/set.txt" if "label" in case and "negative" not in case else f"{tmp_path}/set.txt, line 4: "
    refused(tmp_path, None, f"{tmp_path}/set.txt, line 4: " if case == "no label" else where, *parts)


def test_offset_in_the_middle_of_a_record(tmp_path: Path) -> None:
    offsets = tfrecords(tmp_path, [rf.example({"image": one}) for one in IMAGES])
    with_line(f"faces\t0\t{offsets[3] + 4}\t1")(tmp_path)
    refused(tmp_path, 3, f"faces-00000.tfrecord at byte {offsets[3] + 4}", "no record begins here")


def test_record_line_in_an_index_of_images(tmp_path: Path) -> None:
    (tmp_path / "set.txt").write_text("a.jpg 0\nfaces\t0\t16\t1\n")
    refused(tmp_path, None, f"{tmp_path}/set.txt, line 2: ", "expected `relative/path label`")


def test_index_of_a_tfrecord_folder_without_labels(tmp_path: Path) -> None:
    (tmp_path / "set.txt").write_text("a.jpg\t0\t0\nb.jpg\t0\t9000\n")
    refused(tmp_path, None, f"{tmp_path}/set.txt, line 1: ", "has no labels")


# TFRecord files with labels in them

LABELLED: dict[str, tuple[bytes, list[str]]] = {
    "no label": (rf.tfrecord(rf.example({"image": b"x"})), ["no feature 'label', only: image", "INDEX_ROOT"]),
    "label of bytes": (rf.tfrecord(rf.example({"image": b"x", "label": b"7"})), ["'label' has 0 integers"]),
    "negative label": (rf.tfrecord(rf.example({"image": b"x", "label": -1})), ["label -1, expected 0 to"]),
    "endless label": (rf.tfrecord(rf.example({"image": b"x", "label": 10**9})), ["label 1000000000, expected 0 to"]),
    "no example": (rf.tfrecord(b"text"), ["it is no tf.train.Example"]),
    "rubbish": (b"rubbish between the records", ["no record begins here"]),
    "a few bytes": (b"\0\0\0", ["the file ends at byte"]),
    "torn": (rf.tfrecord(rf.example({"image": IMAGES[0], "label": 0}))[:-1], ["the file ends at byte"]),
}


@pytest.mark.parametrize("case", LABELLED)
def test_tfrecord_folder(tmp_path: Path, case: str) -> None:
    data, parts = LABELLED[case]
    (tmp_path / "set").mkdir()
    good = rf.tfrecord(rf.example({"image": IMAGES[0], "label": 0}))
    (tmp_path / "set" / "a.tfrecord").write_bytes(good)
    (tmp_path / "set" / "b.tfrecord").write_bytes(good + data)
    refused(tmp_path, None, f"{tmp_path}/set/b.tfrecord at byte {len(good)}", *parts)


def test_empty_tfrecord_file_and_labels_with_a_gap(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "a.tfrecord").touch()
    refused(tmp_path, None, f"{tmp_path}/set/a.tfrecord is empty: 0 bytes")
    records = [rf.tfrecord(rf.example({"image": b"x", "label": label})) for label in (0, 2)]
    (tmp_path / "set" / "a.tfrecord").write_bytes(b"".join(records))
    refused(tmp_path, None, f"{tmp_path}/set: label 1 is missing")


# RecordIO


@dataclass
class Rec:
    """A RecordIO set, and what is known of its third record."""

    root: Path
    made: rf.RecordSet = field(default_factory=lambda: rf.plain_set(IMAGES, LABELS))
    offset: int = 0
    size: int = 0

    def write(self) -> None:
        self.offset = self.made.write(self.file)[2]
        self.size = self.file.stat().st_size

    @property
    def file(self) -> Path:
        return self.root / "set.rec"

    def put(self, at: int, *words: int) -> None:
        """Overwrite 32-bit words `at` bytes behind the beginning of record 2."""
        change(self.file, self.offset + at, struct.pack(f"<{len(words)}I", *words))

    def idx(self, text: str) -> None:
        """Line 3 of the .idx."""
        lines = (self.root / "set.idx").read_text().splitlines()
        lines[2] = text
        (self.root / "set.idx").write_text("\n".join(lines) + "\n")

    def record(self, payload: bytes) -> None:
        """Record 2 holds `payload`."""
        self.made.records[2] = rf.recordio(payload)
        self.write()

    def label(self, *labels: float) -> None:
        self.record(rf.with_header(labels[0] if len(labels) == 1 else labels, 2, IMAGES[2]))


def bits(number: float) -> int:
    return int(struct.unpack("<I", struct.pack("<f", number))[0])


AT = "set.rec at byte {offset}"
IDX = "set.idx, line 3: "
RECORDIO: dict[str, tuple[Callable[[Rec], object], int | None, list[str]]] = {
    "no .idx": (lambda r: (r.root / "set.idx").unlink(), None, ["index of the RecordIO file not found", "set.idx"]),
    "empty .idx": (lambda r: (r.root / "set.idx").write_text(""), None, ["set.idx is empty"]),
    "binary .idx": (lambda r: (r.root / "set.idx").write_bytes(b"\x80\3\0"), None, ["set.idx, line 1", "not UTF-8"]),
    "words": (lambda r: r.idx("two\t16"), None, [IDX, "expected a line `key offset`"]),
    "no offset": (lambda r: r.idx("2"), None, [IDX, "expected a line `key offset`"]),
    "negative offset": (lambda r: r.idx("2\t-8"), None, [IDX, "expected a line `key offset`"]),
    "endless offset": (lambda r: r.idx("2\t" + "9" * 300), None, [IDX, "expected a line `key offset`"]),
    "key twice": (lambda r: r.idx(f"1\t{r.offset}"), None, [IDX, "key 1 stands in line 2 already"]),
    "offset twice": (lambda r: r.idx("2\t0"), None, [IDX, "offset 0 stands in line 1 already"]),
    "odd offset": (lambda r: r.idx(f"2\t{r.offset + 2}"), None, [IDX, "multiples of four"]),
    "offset within a record": (lambda r: r.idx(f"2\t{r.offset + 40}"), None, [IDX, "no record begins here"]),
    "offset beyond the end": (lambda r: r.idx(f"2\t{r.size + 4}"), None, [IDX, "it is beyond the end, byte {size}"]),
    "offset at the end": (lambda r: r.idx(f"2\t{r.size // 4 * 4 - 8}"), None, [IDX, "it is beyond the end"]),
    "offset far beyond": (lambda r: r.idx("2\t999999999999999996"), None, [IDX, "it is beyond the end"]),
    "empty .rec": (
        lambda r: os.truncate(r.file, 0),
        None,
        ["set.idx, line 1: ", "at byte 0", "beyond the end, byte 0"],
    ),
    "magic": (lambda r: r.put(0, 0xCED7230B), None, [IDX, AT, "no record begins here"]),
    "other byte order": (lambda r: r.put(0, 0x0A23D7CE), None, [IDX, AT, "no record begins here"]),
    "continuation": (lambda r: r.put(4, 2 << 29 | 100), None, [IDX, AT, "continuation of another"]),
    "flag that is none": (lambda r: r.put(4, 7 << 29 | 100), None, [IDX, AT, "continuation of another"]),
    "parts that do not end": (lambda r: r.put(4, 1 << 29 | 600), None, [AT]),
    "length beyond the end": (lambda r: r.put(4, (1 << 29) - 1), None, [IDX, AT, "beyond the end, byte {size}"]),
    "length into the next": (lambda r: r.put(4, 8000), None, [IDX, AT, "beyond the beginning of the next"]),
    "too short for a header": (lambda r: r.put(4, 8), None, [IDX, AT, "too short for its labels"]),
    "absurd number of labels": (lambda r: r.put(8, 2**32 - 1), None, [IDX, AT, "too short for its labels"]),
    "no image": (lambda r: r.put(4, 24), None, [AT, "the record holds no image"]),
    "empty record": (lambda r: r.record(b""), None, [AT, "too short for its labels"]),
    "label that is no number": (lambda r: r.put(12, bits(float("nan"))), None, [AT, "label nan, expected a whole"]),
    "infinite label": (lambda r: r.put(12, bits(float("inf"))), None, [AT, "label inf, expected a whole"]),
    "fraction": (lambda r: r.put(12, bits(0.5)), None, [AT, "label 0.5, expected a whole"]),
    "negative label": (lambda r: r.put(12, bits(-1.0)), None, [AT, "label -1.0, expected a whole"]),
    "label that float32 rounds": (lambda r: r.put(12, bits(2.0**24)), None, [AT, "label 16777216.0"]),
    "wrong first of two labels": (lambda r: r.label(-3.0, 1.0), None, [AT, "label -3.0"]),
    "label with a gap": (lambda r: r.put(12, bits(7.0)), None, ["set.rec: label 3 is missing"]),
    "not an image": (lambda r: r.record(rf.with_header(1.0, 2, b"text")), 2, [AT, "cannot be decoded"]),
    "torn image": (lambda r: r.record(rf.with_header(1.0, 2, IMAGES[2][:-9])), 2, [AT, "is cut off after"]),
    "size": (lambda r: r.record(rf.with_header(1.0, 2, NOT_112)), 2, [AT, "is 112x96"]),
    "pickle": (lambda r: r.record(rf.with_header(1.0, 2, b"cos\nsystem\n(S'x'\ntR.")), 2, [AT, "cannot be decoded"]),
}


@pytest.mark.parametrize("case", RECORDIO)
def test_recordio_file(tmp_path: Path, case: str) -> None:
    damage, position, parts = RECORDIO[case]
    rec = Rec(tmp_path)
    rec.write()
    damage(rec)
    refused(tmp_path, position, str(tmp_path), *(part.format(offset=rec.offset, size=rec.size) for part in parts))


def test_torn_end_of_a_recordio_file(tmp_path: Path) -> None:
    rec = Rec(tmp_path)
    last = rec.made.write(rec.file)[4]
    size = rec.file.stat().st_size
    for lost in (1, 4, 1000):
        os.truncate(rec.file, size - lost)
        refused(tmp_path, None, f"set.idx, line 5: {rec.file} at byte {last}", f"beyond the end, byte {size - lost}")


def test_record_in_parts_of_absurd_size(tmp_path: Path) -> None:
    """Parts within the file, each of a size that may be, but not together."""
    rec = Rec(tmp_path)
    part = rf.part_of_recordio(2, bytes(2**20))
    rec.made.records[2] = rf.part_of_recordio(1, bytes(100)) + part * 20
    rec.write()
    refused(tmp_path, None, AT.format(offset=rec.offset), "expected 16777216 at most")


def test_record_in_parts_with_a_break(tmp_path: Path) -> None:
    rec = Rec(tmp_path)
    first = rf.part_of_recordio(1, rf.with_header(1.0, 2, IMAGES[2][:100]))
    rec.made.records[2] = first + rf.part_of_recordio(0, IMAGES[2][100:])
    rec.write()
    refused(tmp_path, None, AT.format(offset=rec.offset), f"at byte {rec.offset + len(first)}, has the flag 0")


def test_file_that_changes_while_it_is_used(tmp_path: Path) -> None:
    rec = Rec(tmp_path)
    rec.write()
    index = read_index(tmp_path, tmp_path, "set")
    os.truncate(rec.file, rec.offset + 20)
    with pytest.raises(ValueError, match=rf"set\.rec at byte {rec.offset}: the file ends at byte {rec.offset + 20}"):
        index.read(2)
    change(rec.file, rec.offset, struct.pack("<II", 0, 8))
    with pytest.raises(ValueError, match=rf"at byte {rec.offset}: 0x00000000 stands at byte {rec.offset}, expected"):
        index.read(2)
    rec.put(0, 0xCED7230A, 12)
    with pytest.raises(ValueError, match=r"a record of 12 bytes, but its labels end at 24"):
        index.read(2)
    rec.write()
    fresh = read_index(tmp_path, tmp_path, "set")
    rec.file.unlink()
    with pytest.raises(FileNotFoundError, match=rf"set\.rec at byte {rec.offset} cannot be read: No such file"):
        fresh.read(2)


INSIGHTFACE: dict[str, tuple[Callable[[rf.RecordSet, Path], object], list[str]]] = {
    "other end of the images": (
        lambda made, folder: made.records.update({0: rf.recordio(rf.with_header([5.0, 9.0], 0, b""))}),
        ["record 0 says that images end before record 5, but they end before 6"],
    ),
    "end that is no number": (
        lambda made, folder: made.records.update({0: rf.recordio(rf.with_header([float("nan"), 9.0], 0, b""))}),
        ["record 0 says that images end before record nan"],
    ),
    "image without an image": (
        lambda made, folder: made.records.update({3: rf.recordio(rf.with_header([1.0, 1.0], 3, b""))}),
        ["the record holds no image"],
    ),
    "last image lost": (lambda made, folder: made.records.pop(5), ["but they end before 5"]),
    "other number of people": (
        lambda made, folder: (folder / "property").write_text("4,112,112"),
        ["property, line 1: '4,112,112', but the labels in the records are those of 3 people"],
    ),
    "other size": (
        lambda made, folder: (folder / "property").write_text("3,224,224"),
        ["property, line 1: '3,224,224': expected `people,112,112`"],
    ),
    "property of words": (
        lambda made, folder: (folder / "property").write_text("three"),
        ["property, line 1: 'three': expected `people,112,112`"],
    ),
    "empty property": (lambda made, folder: (folder / "property").touch(), ["property is empty"]),
}


@pytest.mark.parametrize("case", INSIGHTFACE)
def test_insightface_set(tmp_path: Path, case: str) -> None:
    damage, parts = INSIGHTFACE[case]
    made = rf.insightface_set(IMAGES, LABELS)
    (tmp_path / "set").mkdir()
    damage(made, tmp_path / "set")
    offsets = made.write(tmp_path / "set" / "train.rec")
    at = {"image without an image": 3}.get(case, 0)
    where = "set/property" if "property" in parts[0] else f"set/train.rec at byte {offsets[at]}"
    refused(tmp_path, None, f"{tmp_path}/{where}", *parts)


# Index files in parts, folders


PARTS: dict[str, tuple[dict[str, str], list[str]]] = {
    "first missing": ({"001": "a 0\n"}, ["set_000.txt is missing, though", "set_001.txt is there"]),
    "one missing": ({"000": "a 0\n", "002": "a 0\n"}, ["set_001.txt is missing, though", "set_002.txt is there"]),
    "other width": ({"000": "a 0\n", "0001": "a 0\n"}, ["set_001.txt is missing, though", "set_0001.txt is there"]),
    "gap over all": ({"000": "a 0\nb 3\n", "001": "c 1\n"}, ["set_000.txt to set_001.txt: label 2 is missing"]),
    "empty": ({"000": "a 0\n", "001": "\n"}, ["set_001.txt is empty"]),
    "other form": ({"000": "a 0\n", "001": "faces\t0\t0\t1\n"}, ["set_001.txt, line 1: "]),
    "damaged": ({"000": "a 0\n", "001": "a 0\nb\n"}, ["set_001.txt, line 2: 'b'"]),
}


@pytest.mark.parametrize("case", PARTS)
def test_index_in_parts(tmp_path: Path, case: str) -> None:
    files, parts = PARTS[case]
    for number, text in files.items():
        (tmp_path / f"set_{number}.txt").write_text(text)
    refused(tmp_path, None, str(tmp_path), *parts)


def test_person_without_a_image(tmp_path: Path) -> None:
    for person in ("a", "b", "c"):
        (tmp_path / "set" / person).mkdir(parents=True)
        (tmp_path / "set" / person / ("1.txt" if person == "b" else "1.jpg")).write_bytes(IMAGES[0])
    refused(tmp_path, None, f"{tmp_path}/set/b holds no image", "remove the folder")
    shutil.rmtree(tmp_path / "set" / "b")
    (tmp_path / "set" / "c" / "1.jpg").write_bytes(b"")
    refused(tmp_path, 1, f"{tmp_path}/set/c/1.jpg is empty")


# Any damage at all


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(where=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_any_bit_that_flips_in_a_tfrecord_file_is_noticed(tmp_path: Path, where: float, bit: int) -> None:
    offsets = tfrecords(tmp_path, [rf.example({"image": one}) for one in IMAGES])
    shard = tmp_path / "faces" / "faces-00000.tfrecord"
    position = int(where * shard.stat().st_size)
    change(shard, position, bytes([shard.read_bytes()[position] ^ 1 << bit]))
    index = read_index(tmp_path, tmp_path, "set")
    damaged = sum(offset <= position for offset in offsets) - 1
    for k in range(5):
        if k == damaged:
            with pytest.raises(ValueError, match=f"at byte {offsets[k]}"):
                index.read(k)
        else:
            assert index.source(k)() == IMAGES[k]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(
    at=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 60)), min_size=1, max_size=3),
    byte=st.sampled_from([0, 1, 0x20, 0x7F, 0xFF]),
    lost=st.integers(0, 40),
)
def test_damage_of_a_recordio_file_is_noticed_or_spares_the_image(
    tmp_path: Path, at: list[tuple[int, int]], byte: int, lost: int
) -> None:
    rec = Rec(tmp_path)
    offsets = rec.made.write(rec.file)
    for record, k in at:
        change(rec.file, offsets[record] + k, bytes([byte]))
    os.truncate(rec.file, rec.file.stat().st_size - lost)
    try:
        index = read_index(tmp_path, tmp_path, "set")
    except ValueError as error:
        assert str(rec.file) in str(error)
        return
    for k in range(len(index)):
        try:
            assert index.read(k).shape == (112, 112, 3)
        except ValueError as error:
            assert str(error).startswith(f"{rec.file} at byte {offsets[k]}")
