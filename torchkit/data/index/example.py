"""Parse tf.train.Example messages, as far as a set of images needs it.

The wire format of protocol buffers is a row of fields: a number `field << 3 | type`, then a number (type 0), eight
bytes (1), a length and as many bytes (2) or four bytes (5). Numbers are "varints": seven bits a byte, the lowest first,
the eighth bit set in all but the last. An Example (1: Features) holds (1: entry) a name (1) and a Feature (2), which is
a list (1: bytes, 2: floats, 3: int64) of values (1); numbers may be packed into one field.

Source: Protocol Buffers, "Encoding"; tensorflow/core/example/{example,feature}.proto.
"""

from __future__ import annotations

from collections.abc import Iterator

NUMBER, EIGHT_BYTES, BYTES, FOUR_BYTES = 0, 1, 2, 5
BYTES_LIST, INT64_LIST = 1, 3
MAX_VARINT_BYTES = 10
Field = tuple[int, int | memoryview]
"""A field's number, and a number or the bytes that it holds."""


def bytes_feature(example: bytes, name: str) -> bytes:
    """Return the only value of the bytes feature `name`.

    Raises:
        ValueError: not an Example, no such feature, one of another type, or not one value.
    """
    values = [bytes(value) for value in _values(example, name, BYTES_LIST) if isinstance(value, memoryview)]
    if len(values) != 1:
        raise ValueError(f"its feature {name!r} has {len(values)} byte strings, expected one")
    return values[0]


def int64_feature(example: bytes, name: str) -> int:
    """Return the only value of the int64 feature `name`.

    Raises:
        ValueError: not an Example, no such feature, one of another type, or not one value.
    """
    values: list[int] = []
    for value in _values(example, name, INT64_LIST):
        values += [value] if isinstance(value, int) else _packed_numbers(value)
    if len(values) != 1:
        raise ValueError(f"its feature {name!r} has {len(values)} integers, expected one")
    return values[0] - (1 << 64) if values[0] >> 63 else values[0]


def _values(example: bytes, name: str, kind: int) -> Iterator[int | memoryview]:
    """Iterate over the values in the feature's list of type `kind`."""
    names = set()
    feature: memoryview | None = None
    for entry in (entry for features in _submessages(example, 1) for entry in _submessages(features, 1)):
        key = b"".join(_submessages(entry, 1)).decode("utf-8", "replace")
        names.add(key)
        if key == name:
            feature = memoryview(b"".join(_submessages(entry, 2)))
    if feature is None:
        raise ValueError(f"it has no feature {name!r}, only: {', '.join(sorted(names)) or 'none'}")
    for values in _submessages(feature, kind):
        yield from (value for number, value in _fields(values) if number == 1)


def _submessages(data: bytes | memoryview, wanted: int) -> Iterator[memoryview]:
    return (value for number, value in _fields(data) if number == wanted and isinstance(value, memoryview))


def _fields(data: bytes | memoryview) -> Iterator[Field]:
    data = memoryview(data)
    position = 0
    while position < len(data):
        tag, position = _varint(data, position)
        if tag >> 3 == 0:
            raise ValueError("it is no tf.train.Example: a field has the number 0")
        kind, value, count = tag & 7, 0, 0
        if kind in (NUMBER, BYTES):
            value, position = _varint(data, position)
        if kind == NUMBER:
            yield tag >> 3, value
            continue
        if kind not in (EIGHT_BYTES, BYTES, FOUR_BYTES):
            raise ValueError(f"it is no tf.train.Example: a field has the type {kind}")
        count = {EIGHT_BYTES: 8, BYTES: value, FOUR_BYTES: 4}[kind]
        if count > len(data) - position:
            raise ValueError(f"it is no tf.train.Example: a field of {count} bytes, with {len(data) - position} left")
        yield tag >> 3, data[position : position + count]
        position += count


def _packed_numbers(data: memoryview) -> list[int]:
    numbers, position = [], 0
    while position < len(data):
        number, position = _varint(data, position)
        numbers.append(number)
    return numbers


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    """Read the number at `position`, below 2^64; return it and the position after it."""
    value = 0
    for k, byte in enumerate(data[position : position + MAX_VARINT_BYTES]):
        value |= (byte & 0x7F) << (7 * k)
        if byte < 0x80:
            return value & (1 << 64) - 1, position + k + 1
    raise ValueError("it is no tf.train.Example: a number has no end")
