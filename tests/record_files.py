"""TFRecord and RecordIO files, written naively from the formats' definitions, for the tests of their readers."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

MAGIC = struct.pack("<I", 0xCED7230A)


def _crc_table() -> list[int]:
    table = []
    for byte in range(256):
        crc = byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)  # the polynomial of Castagnoli, reversed
        table.append(crc)
    return table


CRC_TABLE = _crc_table()


def crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc = CRC_TABLE[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


def masked(data: bytes) -> bytes:
    crc = crc32c(data)
    rotated = (crc >> 15 | crc << 17) % 2**32
    return struct.pack("<I", (rotated + 0xA282EAD8) % 2**32)


def tfrecord(payload: bytes) -> bytes:
    length = struct.pack("<Q", len(payload))
    return length + masked(length) + payload + masked(payload)


def varint(number: int) -> bytes:
    number %= 2**64  # negative numbers have ten bytes
    data = b""
    while number >= 128:
        data += bytes([number % 128 + 128])
        number //= 128
    return data + bytes([number])


def message(number: int, content: bytes) -> bytes:
    return varint(number * 8 + 2) + varint(len(content)) + content


def feature(value: bytes | int | float) -> bytes:
    """A Feature with one value."""
    if isinstance(value, bytes):
        return message(1, message(1, value))
    if isinstance(value, int):
        return message(3, message(1, varint(value)))  # packed
    return message(2, message(1, struct.pack("<f", value)))


def example(features: Mapping[str, bytes | int | float]) -> bytes:
    entries = [message(1, name.encode()) + message(2, feature(value)) for name, value in features.items()]
    return message(1, b"".join(message(1, entry) for entry in entries))


def recordio(payload: bytes) -> bytes:
    """Cut wherever the magic stands at a multiple of four bytes; it is left out there."""
    parts, start = [], 0
    for k in range(0, len(payload) - 3, 4):
        if payload[k : k + 4] == MAGIC:
            parts.append(payload[start:k])
            start = k + 4
    parts.append(payload[start:])
    flags = [0] if len(parts) == 1 else [1, *[2] * (len(parts) - 2), 3]
    return b"".join(part_of_recordio(flag, part) for flag, part in zip(flags, parts, strict=True))


def part_of_recordio(flag: int, part: bytes) -> bytes:
    return MAGIC + struct.pack("<I", flag << 29 | len(part)) + part + bytes(-len(part) % 4)


def with_header(label: float | Sequence[float], key: int, image: bytes) -> bytes:
    """What a RecordIO record of a set holds."""
    if isinstance(label, float):
        return struct.pack("<IfQQ", 0, label, key, 0) + image
    return struct.pack(f"<IfQQ{len(label)}f", len(label), 0, key, 0, *label) + image


@dataclass(frozen=True)
class RecordSet:
    """A training set in RecordIO form: the record of each key, in the order in which they are written."""

    records: dict[int, bytes]

    def write(self, rec: Path) -> dict[int, int]:
        """Write rec and its .idx; returns the offset of each key."""
        rec.parent.mkdir(parents=True, exist_ok=True)
        data, offsets = b"", {}
        for key, record in self.records.items():
            offsets[key] = len(data)
            data += record
        rec.write_bytes(data)
        rec.with_suffix(".idx").write_text("".join(f"{key}\t{offset}\n" for key, offset in offsets.items()))
        return offsets


def plain_set(images: Sequence[bytes], labels: Sequence[int]) -> RecordSet:
    """As MXNet's im2rec writes it: images all through, one label each."""
    entries = enumerate(zip(images, labels, strict=True))
    return RecordSet({key: recordio(with_header(float(label), key, image)) for key, (image, label) in entries})


def insightface_set(images: Sequence[bytes], labels: Sequence[int]) -> RecordSet:
    """As InsightFace's face2rec2 writes it: images from 1 on with two labels, then record 0, then the people."""
    records = {}
    for key, (image, label) in enumerate(zip(images, labels, strict=True), start=1):
        records[key] = recordio(with_header([float(label), 1.0], key, image))
    end = len(images) + 1
    firsts = [labels.index(label) + 1 for label in sorted(set(labels))]
    records[0] = recordio(with_header([float(end), float(end + len(firsts))], 0, b""))
    for k, first in enumerate(firsts):
        after = firsts[k + 1] if k + 1 < len(firsts) else end
        records[end + k] = recordio(with_header([float(first), float(after)], end + k, b""))
    return RecordSet(records)


def write_tface(
    data_root: Path, index: Path, name: str, images: Sequence[bytes], labels: Sequence[int], shard_size: int
) -> list[tuple[Path, int]]:
    """TFRecord shards and their index as TFace has them; returns file and offset of each image."""
    (data_root / name).mkdir(parents=True)
    lines, places = [], []
    for start in range(0, len(images), shard_size):
        shard, data = start // shard_size, b""
        file = data_root / name / f"{name}-{shard:05d}.tfrecord"
        for k in range(start, min(start + shard_size, len(images))):
            lines.append(f"{name}\t{shard}\t{len(data)}\t{labels[k]}\n")
            places.append((file, len(data)))
            data += tfrecord(example({"image": images[k]}))
        file.write_bytes(data)
    index.write_text("".join(lines))
    return places
