"""The body of a message of version 2: it holds only what the `Coding` that both sides share does not."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from torchkit.payload.coding import Coding
from torchkit.payload.image import EncodedImage, restore_container, strip_container
from torchkit.payload.limits import MAX_MESSAGE_BYTES, PayloadError
from torchkit.payload.message import Payload, TapFeatures, check_tap_count
from torchkit.payload.reader import Reader

NAME_BYTES = 8
"""Leading bytes of the client's fingerprint, which identify the client of a message."""
_FIXED = struct.Struct(f"<{NAME_BYTES}sB")
"""Name; number of taps, and whether the image is lossless."""
_LOSSLESS = 0x80
_LENGTH_BYTES = 4
"""Most bytes of an encoded length, each with seven bits of it: enough for MAX_MESSAGE_BYTES."""


@dataclass(frozen=True)
class CompactHeader:
    """The header of a message of version 2."""

    name: bytes
    lossless: bool
    image_bytes: int
    """Bytes of the image without its container."""
    data_bytes: tuple[int, ...]
    """Bytes of each tap."""

    def write(self) -> bytes:
        fixed = _FIXED.pack(self.name, len(self.data_bytes) | _LOSSLESS * self.lossless)
        return fixed + b"".join(map(_write_length, (self.image_bytes, *self.data_bytes)))

    @classmethod
    def read(cls, reader: Reader) -> CompactHeader:
        """Read the header; `reader` must then hold exactly the data that it announces.

        Raises:
            PayloadError: cut short, beyond the limits, other data than announced, or not as `write` would put it.
        """
        name, form = reader.unpack(_FIXED)
        tap_count = form & ~_LOSSLESS
        check_tap_count(tap_count)
        image_bytes, *data_bytes = (_read_length(reader) for _ in range(1 + tap_count))
        header = cls(name, bool(form & _LOSSLESS), image_bytes, tuple(data_bytes))
        announced = image_bytes + sum(data_bytes)
        if announced != reader.remaining:
            raise PayloadError(f"{reader.remaining} bytes follow the header: it announces {announced}")
        return header


def write_compact(payload: Payload, coding: Coding) -> bytes:
    """The body of a message of version 2, between version and checksum.

    Raises:
        PayloadError: the payload is of another client than the coding.
    """
    fits = payload.fingerprint == coding.fingerprint and len(payload.taps) == len(coding.taps)
    if not fits or not all(known.fits(tap) for known, tap in zip(coding.taps, payload.taps, strict=True)):
        raise PayloadError("the payload is of another client than the coding: take the coding of its own client")
    lossless, image = strip_container(payload.image.data)
    data = [known.write(tap.codes) for known, tap in zip(coding.taps, payload.taps, strict=True)]
    header = CompactHeader(coding.fingerprint[:NAME_BYTES], lossless, len(image), tuple(map(len, data)))
    return b"".join((header.write(), image, *data))


def read_compact(reader: Reader, coding: Coding) -> Payload:
    """Undo `write_compact`, for bytes of unknown origin.

    Raises:
        PayloadError: anything else than `write_compact` gives for this coding.
    """
    header = CompactHeader.read(reader)
    if header.name != coding.fingerprint[:NAME_BYTES]:
        raise PayloadError(
            f"the message is of client {header.name.hex()}..., expected was {coding.fingerprint.hex()}; take the "
            "server file that was exported together with the client"
        )
    if len(header.data_bytes) != len(coding.taps):
        raise PayloadError(f"{len(header.data_bytes)} taps: this client sends {len(coding.taps)}")
    image = EncodedImage.read(restore_container(header.lossless, reader.take(header.image_bytes)))
    taps: list[TapFeatures] = []
    for known, data_bytes in zip(coding.taps, header.data_bytes, strict=True):
        taps.append(known.read(reader.take(data_bytes)))
    return Payload(coding.fingerprint, image, tuple(taps))


def _write_length(length: int) -> bytes:
    """Write a length as LEB128: seven bits a byte, the lowest first; the highest bit marks that more bytes follow."""
    assert length <= MAX_MESSAGE_BYTES * 2, length
    written = bytearray()
    while length > 0x7F:
        written.append(length & 0x7F | 0x80)
        length >>= 7
    return bytes([*written, length])


def _read_length(reader: Reader) -> int:
    """Undo `_write_length`."""
    length = 0
    for place in range(_LENGTH_BYTES):
        (byte,) = reader.take(1)
        length |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            if byte == 0 and place:
                raise PayloadError("a length with leading zeros: write it in as few bytes as it needs")
            return length
    raise PayloadError(f"a length of more than {_LENGTH_BYTES} bytes")
