"""Write a payload as bytes and read it back: magic, version, header, image, features, checksum (docs/payload.md)."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

from torchkit.payload.coding import Coding
from torchkit.payload.compact import CompactHeader, read_compact, write_compact
from torchkit.payload.compression import compress, decompress
from torchkit.payload.header import Header, TapEntry
from torchkit.payload.image import EncodedImage
from torchkit.payload.limits import MAX_MESSAGE_BYTES, PayloadError
from torchkit.payload.message import Payload, TapFeatures
from torchkit.payload.packing import pack, unpack
from torchkit.payload.reader import Reader

MAGIC = b"PFC"
VERSIONS = (1, 2)
_VERSION_BYTES = [bytes([version]) for version in VERSIONS]
_START_BYTES = len(MAGIC) + 1
_CHECKSUM_BYTES = 4


@dataclass(frozen=True)
class Sizes:
    """The bytes of a message, by part."""

    header: int
    """Everything but image and features: the header itself, magic, version and checksum."""
    image: int
    features: tuple[int, ...]
    """Of each tap."""

    @property
    def message(self) -> int:
        """All bytes."""
        return self.header + self.image + sum(self.features)


def encode(payload: Payload, coding: Coding | None = None) -> bytes:
    """Write a message that `decode` reads back as an equal payload.

    Args:
        payload: what to write.
        coding: of the payload's client, for a message of version 2, which only a reader with the same coding
            understands; None: version 1, which is self-contained.

    Raises:
        PayloadError: longer than 4 MiB, or of another client than the coding.
    """
    message = _seal(1, _write_body(payload)) if coding is None else _seal(2, write_compact(payload, coding))
    if len(message) > MAX_MESSAGE_BYTES:
        raise PayloadError(
            f"a message of {len(message)} bytes: allowed are {MAX_MESSAGE_BYTES}; quantise or prune more"
        )
    return message


def decode(data: bytes | bytearray | memoryview, coding: Coding | None = None) -> Payload:
    """Read a message of unknown origin.

    Every size is checked against the limits and against the bytes present before memory of that size is allocated,
    never more than 24 MiB (the WebP decoder aside).

    Args:
        data: the message.
        coding: of the client whose messages of version 2 are expected; None: only version 1 can be read.

    Raises:
        PayloadError: anything but a message as `encode` writes it. There is no other exception.
    """
    version, reader = _unseal(data)
    if version == 1:
        return _read_body(reader)
    if coding is None:
        raise PayloadError("a message of version 2: to read it, the coding of its client is needed (a server file)")
    return read_compact(reader, coding)


def sizes(data: bytes | bytearray | memoryview) -> Sizes:
    """Count the bytes of each part of a message by its header; image and features are not read.

    Raises:
        PayloadError: not a message.
    """
    version, reader = _unseal(data)
    if version == 1:
        header = Header.read(reader)
        image, features = header.image_bytes, tuple(tap.data_bytes for tap in header.taps)
    else:
        compact = CompactHeader.read(reader)
        image, features = compact.image_bytes, compact.data_bytes
    return Sizes(_START_BYTES + reader.position + _CHECKSUM_BYTES, image, features)


def _seal(version: int, body: bytes) -> bytes:
    """Put magic and version before the body, and the checksum after it."""
    covered = MAGIC + bytes([version]) + body
    return covered + _checksum(covered)


def _unseal(data: bytes | bytearray | memoryview) -> tuple[int, Reader]:
    """Undo `_seal`, for any input."""
    message = _own_bytes(data)
    if message[: len(MAGIC)] != MAGIC:
        raise PayloadError(f"not a message: it does not begin with {MAGIC!r}")
    version = message[len(MAGIC) : _START_BYTES]
    if version not in _VERSION_BYTES:
        raise PayloadError(f"version {version.hex()} of a message: known are {', '.join(map(str, VERSIONS))}")
    covered, checksum = message[:-_CHECKSUM_BYTES], message[-_CHECKSUM_BYTES:]
    if checksum != _checksum(covered):
        raise PayloadError("wrong checksum: the message was damaged or cut short on its way")
    return version[0], Reader(covered[_START_BYTES:])


def _own_bytes(data: bytes | bytearray | memoryview) -> bytes:
    """Copy the data, so that nobody changes what was checked."""
    try:
        view = memoryview(data)
        if view.nbytes <= MAX_MESSAGE_BYTES:
            return bytes(view)
    except (TypeError, ValueError, BufferError) as error:
        raise PayloadError(f"a message is bytes, not {type(data).__name__}: {error}") from error
    raise PayloadError(f"a message of {view.nbytes} bytes: allowed are {MAX_MESSAGE_BYTES}")


def _checksum(data: bytes) -> bytes:
    """CRC-32 (IEEE 802.3), little-endian."""
    return zlib.crc32(data).to_bytes(_CHECKSUM_BYTES, "little")


def _write_body(payload: Payload) -> bytes:
    """Write the body of version 1: a complete header, the image, the features."""
    taps, data = zip(*map(_write_tap, payload.taps), strict=True)
    header = Header(payload.fingerprint, len(payload.image.data), taps)
    return b"".join((header.write(), payload.image.data, *data))


def _read_body(reader: Reader) -> Payload:
    header = Header.read(reader)
    image = EncodedImage.read(reader.take(header.image_bytes))
    taps = tuple(_read_tap(entry, reader.take(entry.data_bytes)) for entry in header.taps)
    return Payload(header.fingerprint, image, taps)


def _write_tap(tap: TapFeatures) -> tuple[TapEntry, bytes]:
    packed = pack(tap.codes, tap.bits)
    frame = compress(packed)
    compressed = len(frame) < len(packed)
    data = frame if compressed else packed
    return TapEntry(tap.shape, tap.bits, tap.step, tap.kept, compressed, len(data)), data


def _read_tap(entry: TapEntry, data: bytes) -> TapFeatures:
    packed = decompress(data, entry.packed_bytes) if entry.compressed else data
    codes = unpack(packed, entry.values, entry.bits).reshape(len(entry.kept), *entry.shape[1:])
    return TapFeatures(entry.shape, entry.kept, entry.bits, entry.step, codes)
