"""Read MXNet's RecordIO files, as InsightFace distributes them: train.rec, train.idx and property.

A record begins at a multiple of four bytes: magic 0xced7230a, then a flag (3 bits) and a length (29 bits), then the
payload, padded to four bytes. Flag 0 is a whole record; where the magic itself stands in a payload at a multiple of
four bytes, it is left out and the record goes on in another part: flag 1 is the first part, 2 one between, 3 the last.

The payload is a header (uint32 n, float32 label, uint64 id, uint64 id2), n more labels (float32), which then take the
label's place, and an encoded image. train.idx has a line `key offset` a record. In InsightFace's sets record 0 has no
image but the labels (a, b): records 1 to a-1 are images, a to b-1 people, which name ranges of images; im2rec's
sets are images all through. property is `people,112,112`.

Source: dmlc-core, recordio.h; MXNet, mx.recordio.IRHeader; InsightFace, face2rec2.py.
"""

from __future__ import annotations

import re
import struct
from array import array
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from torchkit.data.index.base import RecordIndex, check_labels
from torchkit.data.index.record_file import MAX_RECORD_BYTES, RecordFile
from torchkit.data.text import decode_lines, iterate_blocks, match_lines, read_lines
from torchkit.util.pixels import INPUT_SIZE_PX

MAGIC = 0xCED7230A
WHOLE, FIRST, MIDDLE, LAST = range(4)
FLAG_SHIFT = 29
LENGTH_MASK = (1 << FLAG_SHIFT) - 1
PART = struct.Struct("<II")
HEADER = struct.Struct("<IfQQ")
LABEL = struct.Struct("<f")
MAX_LABEL = 1 << 24
"""From here on, float32 does not represent every whole number."""
SCAN_ROWS = 1 << 18
IDX_LINE = re.compile(rb"([0-9]{1,18})[\t ]([0-9]{1,18})\n")
DAMAGED = "the file is damaged or belongs to another train.idx: copy both again"


def read_record(file: RecordFile, offset: int, name: str) -> bytes:
    """Read the payload of the record at `offset`; `name` is its name in messages.

    Raises:
        FileNotFoundError: the file cannot be read.
        ValueError: no record begins there, it is damaged, cut off or longer than any image.
    """
    parts: list[bytes] = []
    total = 0
    while True:
        magic, word = PART.unpack(file.read(offset, PART.size, name))
        flag, length = word >> FLAG_SHIFT, word & LENGTH_MASK
        if magic != MAGIC:
            raise ValueError(f"{name}: 0x{magic:08x} stands at byte {offset}, expected 0x{MAGIC:08x}; {DAMAGED}")
        if flag not in ((MIDDLE, LAST) if parts else (WHOLE, FIRST)):
            raise ValueError(
                f"{name}: part {len(parts)} of the record, at byte {offset}, has the flag {flag}; {DAMAGED}"
            )
        total += length
        if total > MAX_RECORD_BYTES:
            raise ValueError(f"{name}: a record of {total} bytes, expected {MAX_RECORD_BYTES} at most; {DAMAGED}")
        parts.append(file.read(offset + PART.size, length, name))
        if flag in (WHOLE, LAST):
            return struct.pack("<I", MAGIC).join(parts)
        offset += PART.size + _padded(length)


def read_image(file: RecordFile, offset: int, name: str) -> bytes:
    """Read the encoded image of the record at `offset`; `name` is its name in messages.

    Raises:
        FileNotFoundError, ValueError: as `read_record`, or the record holds no image.
    """
    image = _split(read_record(file, offset, name), name)[1]
    if not image:
        raise ValueError(f"{name}: the record holds no image; {DAMAGED}")
    return image


def _split(payload: bytes, name: str) -> tuple[float, bytes, int]:
    """Split a payload into label, encoded image and number of additional labels."""
    count = HEADER.unpack_from(payload)[0] if len(payload) >= HEADER.size else 0
    start = HEADER.size + 4 * count
    if len(payload) < start:
        raise ValueError(f"{name}: a record of {len(payload)} bytes, but its labels end at {start}; {DAMAGED}")
    label = LABEL.unpack_from(payload, HEADER.size)[0] if count else HEADER.unpack_from(payload)[1]
    return label, payload[start:], count


def _padded(length: int) -> int:
    return -(-length // 4) * 4


def read_recordio(rec: Path, property_file: Path | None = None) -> RecordIndex:
    """Read the images of a RecordIO file, in the order of the file.

    Reads the head of every record, since labels are stored nowhere else.

    Args:
        rec: the records; the file of the same name that ends with .idx holds their offsets.
        property_file: InsightFace's `property`, checked if it exists.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a line of another form, an offset at which no record begins, a record that is damaged, cut off or
            has no image, a label that is no whole number, a gap in the labels, or another number of people than
            `property_file` says.
    """
    keys, offsets, lines = _read_idx(rec.with_suffix(".idx"))
    file = RecordFile(rec)
    heads = _Scan(file, rec.with_suffix(".idx"), offsets, lines).run()
    chosen = _choose_images(rec, keys, offsets, heads)
    offsets, labels = offsets[chosen], heads.labels[chosen]
    wrong = ~((labels >= 0) & (labels < MAX_LABEL) & (labels == np.floor(labels)))
    if wrong.any():
        k = int(wrong.argmax())
        raise ValueError(f"{rec} at byte {offsets[k]}: label {labels[k]}, expected a whole number below {MAX_LABEL}")
    people = labels.astype(np.int64)
    check_labels(people, rec)
    if property_file is not None and property_file.is_file():
        _check_property(property_file, int(people.max()) + 1)
    return RecordIndex([file], np.zeros(len(offsets), np.uint8), offsets, people, read_image)


def _read_idx(file: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Read keys, offsets in bytes and line numbers (from 1), sorted by offset."""
    form = "a line `key offset` for each record"
    keys, offsets = array("q"), array("Q")
    for first, block in iterate_blocks(file, "index of the RecordIO file", form):
        matches = match_lines(IDX_LINE, block)
        if matches is None:
            raise _wrong_line(block, file, first, form)
        keys.extend(int(key) for key, _ in matches)
        offsets.extend(int(offset) for _, offset in matches)
    order = np.argsort(np.frombuffer(offsets, np.uint64), kind="stable")
    _check_distinct(file, np.frombuffer(keys, np.int64), "key")
    _check_distinct(file, np.frombuffer(offsets, np.uint64), "offset")
    return np.frombuffer(keys, np.int64)[order], np.frombuffer(offsets, np.uint64)[order], order + 1


def _wrong_line(block: bytes, file: Path, first: int, form: str) -> ValueError:
    for number, line in enumerate(decode_lines(block, file, first), start=first):
        if not match_lines(IDX_LINE, line.encode() + b"\n"):
            return ValueError(f"{file}, line {number}: {line!r}: expected {form}, two whole numbers from 0 up")
    raise AssertionError(f"{file}: each line is right, but not all are")


def _check_distinct(file: Path, values: np.ndarray, what: str) -> None:
    order = np.argsort(values, kind="stable")
    again = np.flatnonzero(np.diff(values[order]) == 0)
    if again.size:
        earlier, later = order[again[0]] + 1, order[again[0] + 1] + 1
        raise ValueError(f"{file}, line {later}: {what} {values[earlier - 1]} stands in line {earlier} already")


@dataclass(frozen=True)
class _Heads:
    """The contents of the records' heads."""

    labels: np.ndarray
    """(N,) float32."""
    has_image: np.ndarray
    """(N,) bool."""
    has_more_labels: np.ndarray
    """(N,) bool; true for InsightFace's record 0."""


class _Scan:
    """Read the heads of all records, many at once.

    Args:
        file: the records.
        idx: their index, for messages.
        offsets: (N,) uint64, ascending.
        lines: (N,) of `idx`.
    """

    def __init__(self, file: RecordFile, idx: Path, offsets: np.ndarray, lines: np.ndarray) -> None:
        self.file, self.idx, self.offsets, self.lines = file, idx, offsets, lines
        self.size = file.size(f"{idx}: {file.path}")
        count = len(offsets)
        self.heads = _Heads(np.empty(count, np.float32), np.empty(count, bool), np.empty(count, bool))

    def run(self) -> _Heads:
        ends = np.append(self.offsets[1:], np.uint64(self.size)).astype(np.int64)
        offsets = self.offsets.astype(np.int64)
        self._refuse(offsets % 4 != 0, "records begin at multiples of four bytes")
        self._refuse(offsets + PART.size + HEADER.size > self.size, f"it is beyond the end, byte {self.size}")
        words = np.memmap(self.file.path, "<u4", "r", shape=(self.size // 4,))
        for start in range(0, len(offsets), SCAN_ROWS):
            rows = slice(start, start + SCAN_ROWS)
            self._scan(words, offsets[rows], ends[rows], start)
        return self.heads

    def _scan(self, words: np.ndarray, offsets: np.ndarray, ends: np.ndarray, start: int) -> None:
        at = offsets // 4
        flags, lengths = words[at + 1] >> FLAG_SHIFT, (words[at + 1] & LENGTH_MASK).astype(np.int64)
        self._refuse(words[at] != MAGIC, f"no record begins here: 0x{MAGIC:08x} is missing", start)
        self._refuse(flags > FIRST, "the record is the continuation of another", start)
        record_ends = offsets + PART.size + -(-lengths // 4) * 4
        self._refuse(record_ends > self.size, f"the record goes beyond the end, byte {self.size}", start)
        self._refuse(record_ends > ends, "the record goes beyond the beginning of the next", start)
        counts = words[at + 2].astype(np.int64)
        image_bytes = lengths - HEADER.size - 4 * counts
        whole = flags == WHOLE
        self._refuse(whole & (image_bytes < 0), "the record is too short for its labels", start)
        label_at = np.where(whole & (counts > 0), at + 8, at + 3)  # in words: two of the part, six of the header
        rows = slice(start, start + len(offsets))
        self.heads.labels[rows] = words[label_at].view(np.float32)
        self.heads.has_image[rows] = image_bytes > 0
        self.heads.has_more_labels[rows] = counts > 0
        for k in np.flatnonzero(~whole).tolist():  # rare: about one image in a million contains the magic
            self._read(start + k)

    def _read(self, k: int) -> None:
        """Read the head of a record in parts."""
        name = self._describe(k)
        label, image, count = _split(read_record(self.file, int(self.offsets[k]), name), name)
        self.heads.labels[k], self.heads.has_image[k] = label, bool(image)
        self.heads.has_more_labels[k] = count > 0

    def _refuse(self, wrong: np.ndarray, why: str, start: int = 0) -> None:
        if wrong.any():
            raise ValueError(f"{self._describe(start + int(wrong.argmax()))}: {why}; {DAMAGED}")

    def _describe(self, k: int) -> str:
        return f"{self.idx}, line {self.lines[k]}: {self.file.path} at byte {self.offsets[k]}"


def _choose_images(rec: Path, keys: np.ndarray, offsets: np.ndarray, heads: _Heads) -> np.ndarray:
    """Return (N,) bool: which records are images, rather than InsightFace's record 0 or its people."""
    images = heads.has_image
    zero = np.flatnonzero(keys == 0)
    has_header = zero.size > 0 and bool(heads.has_more_labels[zero[0]]) and not images[zero[0]]
    people_from = int(keys[images].max(initial=0)) + 1
    empty = ~images & (keys > 0) & (keys < people_from) if has_header else ~images
    if empty.any():
        raise ValueError(f"{rec} at byte {offsets[empty.argmax()]}: the record holds no image; {DAMAGED}")
    if has_header and np.float32(people_from) != heads.labels[zero[0]]:
        raise ValueError(
            f"{rec} at byte {offsets[zero[0]]}: record 0 says that images end before record "
            f"{heads.labels[zero[0]]:.0f}, but they end before {people_from}; {DAMAGED}"
        )
    return images


def _check_property(file: Path, people: int) -> None:
    form = f"`people,{INPUT_SIZE_PX},{INPUT_SIZE_PX}`"
    line = read_lines(file, "property", form)[0].strip()
    if not re.fullmatch(f"[0-9]{{1,9}},{INPUT_SIZE_PX},{INPUT_SIZE_PX}", line):
        raise ValueError(f"{file}, line 1: {line!r}: expected {form}")
    if int(line.split(",")[0]) != people:
        raise ValueError(
            f"{file}, line 1: {line!r}, but the labels in the records are those of {people} people; records are "
            "missing or the file belongs to others: copy the set again, or remove this file"
        )
