"""A payload as bytes and back: magic, version, header, image, features, checksum (docs/payload.md)."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

from torchkit.payload.compression import compress, decompress
from torchkit.payload.header import Header, TapEntry
from torchkit.payload.image import EncodedImage
from torchkit.payload.limits import MAX_MESSAGE_BYTES, PayloadError
from torchkit.payload.message import Payload, TapFeatures
from torchkit.payload.packing import pack, unpack
from torchkit.payload.reader import Reader

MAGIC = b"PFC"
VERSION = 1
_START = MAGIC + bytes([VERSION])
_CHECKSUM_BYTES = 4


@dataclass(frozen=True)
class Sizes:
    """Where the bytes of a message are."""

    header: int
    """Everything but image and features: also magic, version and checksum."""
    image: int
    features: tuple[int, ...]
    """Of each tap."""

    @property
    def message(self) -> int:
        """All bytes."""
        return self.header + self.image + sum(self.features)


def encode(payload: Payload) -> bytes:
    """Write a message that `decode` reads back as an equal payload.

    Raises:
        PayloadError: longer than 4 MiB.
    """
    taps, data = zip(*map(_write_tap, payload.taps), strict=True)
    header = Header(payload.fingerprint, len(payload.image.data), taps)
    message = _seal(b"".join((header.write(), payload.image.data, *data)))
    if len(message) > MAX_MESSAGE_BYTES:
        raise PayloadError(
            f"a message of {len(message)} bytes: allowed are {MAX_MESSAGE_BYTES}; quantise or prune more"
        )
    return message


def decode(data: bytes | bytearray | memoryview) -> Payload:
    """Read a message of unknown origin.

    Every size is checked against the limits and against the bytes that are there before memory of that size is
    taken, which is never more than 24 MiB (the WebP decoder aside).

    Raises:
        PayloadError: anything but a message of version 1 as `encode` writes it. There is no other exception.
    """
    reader = Reader(_unseal(data))
    header = Header.read(reader)
    image = EncodedImage.read(reader.take(header.image_bytes))
    taps = tuple(_read_tap(entry, reader.take(entry.data_bytes)) for entry in header.taps)
    return Payload(header.fingerprint, image, taps)


def sizes(data: bytes | bytearray | memoryview) -> Sizes:
    """Tell where the bytes of a message are, from its header; image and features are not looked at.

    Raises:
        PayloadError: no message of version 1.
    """
    reader = Reader(_unseal(data))
    header = Header.read(reader)
    header_bytes = len(_START) + reader.position + _CHECKSUM_BYTES
    return Sizes(header_bytes, header.image_bytes, tuple(tap.data_bytes for tap in header.taps))


def _seal(body: bytes) -> bytes:
    """Put magic and version before, the checksum behind."""
    return _START + body + _checksum(_START + body)


def _unseal(data: bytes | bytearray | memoryview) -> bytes:
    """Undo `_seal`, for any input."""
    message = _own_bytes(data)
    if message[: len(MAGIC)] != MAGIC:
        raise PayloadError(f"not a message: it does not begin with {MAGIC!r}")
    if message[: len(_START)] != _START:
        raise PayloadError(f"version {message[len(MAGIC) : len(_START)].hex()} of a message: known is {VERSION}")
    covered, checksum = message[:-_CHECKSUM_BYTES], message[-_CHECKSUM_BYTES:]
    if checksum != _checksum(covered):
        raise PayloadError("wrong checksum: the message was damaged or cut short on its way")
    return covered[len(_START) :]


def _own_bytes(data: bytes | bytearray | memoryview) -> bytes:
    """A copy, so that nobody changes what was checked."""
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
