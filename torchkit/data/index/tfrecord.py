"""Read TFRecord files: consecutive records, each a tf.train.Example.

A record is its length (uint64), the masked CRC-32C of these eight bytes (uint32), the payload, and the payload's masked
CRC-32C; all little-endian. Masked is ((crc >> 15 | crc << 17) + 0xa282ead8) mod 2^32.

Source: "TFRecord and tf.train.Example", TensorFlow's documentation. TFace's `img2tfrecord` writes a feature `image`,
an encoded image; labels stand in its index. Without an index, a feature `label` (int64) is needed.
"""

from __future__ import annotations

import struct
from array import array
from pathlib import Path

import google_crc32c
import numpy as np

from torchkit.data.index.base import MAX_LABEL, RecordIndex, check_labels
from torchkit.data.index.example import bytes_feature, int64_feature
from torchkit.data.index.record_file import MAX_RECORD_BYTES, RecordFile

HEAD = struct.Struct("<QI")
CRC = struct.Struct("<I")
MASK_DELTA = 0xA282EAD8
MIN_RECORD_BYTES = HEAD.size + CRC.size
IMAGE, LABEL = "image", "label"
DAMAGED = "the file is damaged or the offset wrong: copy it again, with its index"


def read_record(file: RecordFile, offset: int, name: str) -> bytes:
    """Read the payload of the record at `offset`; `name` is its name in messages.

    Raises:
        FileNotFoundError: the file cannot be read.
        ValueError: no record begins there, it is damaged, cut off or longer than any image.
    """
    head = file.read(offset, HEAD.size, name)
    length, crc = HEAD.unpack(head)
    if crc != masked_crc(head[:8]):
        raise ValueError(f"{name}: no record begins here: the checksum of the length {length} is wrong; {DAMAGED}")
    if length > MAX_RECORD_BYTES:
        raise ValueError(f"{name}: a record of {length} bytes, expected {MAX_RECORD_BYTES} at most; {DAMAGED}")
    body = file.read(offset + HEAD.size, length + CRC.size, name)
    payload = body[:length]
    if CRC.unpack(body[length:])[0] != masked_crc(payload):
        raise ValueError(f"{name}: the checksum of the record is wrong; {DAMAGED}")
    return payload


def read_image(file: RecordFile, offset: int, name: str) -> bytes:
    """Read the encoded image of the record at `offset`; `name` is its name in messages.

    Raises:
        FileNotFoundError, ValueError: as `read_record`, or the record holds no image.
    """
    payload = read_record(file, offset, name)
    try:
        return bytes_feature(payload, IMAGE)
    except ValueError as error:
        raise ValueError(f"{name}: the record holds no image: {error}; see Data/README.md") from None


def masked_crc(data: bytes) -> int:
    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + MASK_DELTA) & 0xFFFFFFFF


def read_tfrecord_folder(folder: Path) -> RecordIndex:
    """Read all records of the TFRecord files in a folder, with their labels.

    Reads every file once from beginning to end; with an index file this is not needed.

    Raises:
        ValueError: a file is empty, damaged or cut off, a record has no label, or a gap in the labels.
    """
    files = [RecordFile(path) for path in find_shards(folder)]
    shards, offsets, labels = array("I"), array("Q"), array("q")
    for number, file in enumerate(files):
        offset, size = 0, file.size(str(file.path))
        if not size:
            raise ValueError(f"{file.path} is empty: 0 bytes; copy it again or take it out of the folder")
        while offset < size:
            name = f"{file.path} at byte {offset}"
            payload = read_record(file, offset, name)
            shards.append(number)
            offsets.append(offset)
            labels.append(_label(payload, name))
            offset += MIN_RECORD_BYTES + len(payload)
    label_array = np.frombuffer(labels, np.int64)
    check_labels(label_array, folder)
    return RecordIndex(
        files, np.frombuffer(shards, np.uint32), np.frombuffer(offsets, np.uint64), label_array, read_image
    )


def find_shards(folder: Path) -> list[Path]:
    """List the TFRecord files in a folder, sorted by name."""
    return sorted(folder.glob("[!.]*.tfrecord"))


def _label(payload: bytes, name: str) -> int:
    try:
        label = int64_feature(payload, LABEL)
    except ValueError as error:
        raise ValueError(
            f"{name}: the record holds no label: {error}; write the labels into the records or into an index, "
            "INDEX_ROOT/NAME.txt, see Data/README.md"
        ) from None
    if not 0 <= label <= MAX_LABEL:
        raise ValueError(f"{name}: label {label}, expected 0 to {MAX_LABEL}")
    return label
