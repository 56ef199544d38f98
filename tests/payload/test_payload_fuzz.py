"""`decode` against thousands of damaged messages: a payload or PayloadError, in little memory and time.

The default suite takes 4,000. For more:

    PROFACE_FUZZ=100000 python -m pytest tests/payload/test_payload_fuzz.py

Message number n is the same in every run, so that what a failure names can be made again with `damaged(n)`, or with
`damaged_coded(n)` for messages of version 2.
"""

from __future__ import annotations

import os
import random
import struct
import sys
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
from test_compact_format import RawCompact, coding_for
from test_payload_format import STORED, RawMessage, draw_codes, some_image, with_checksum

from torchkit.payload import Coding, Payload, PayloadError, TapFeatures, decode, encode

MESSAGES = int(os.environ.get("PROFACE_FUZZ", "4000"))
HEADER_BYTES = 150
MOST_DAMAGES = 4
PEAK_BYTES = 2**21
"""What one message may take: the largest of the samples takes half of it."""
GROWTH_BYTES = 2**25
"""What the process may grow by over all messages; this counts the memory of the C libraries, too."""
SECONDS = 0.25
TELLING_NUMBERS = (0, 1, 2, 3, 8, 32, 127, 128, 255, 256, 4096, 4097, 0x7FFF, 0xFFFF, 2**20, 2**31, 2**32 - 1)


@cache
def samples() -> tuple[bytes, ...]:
    """Right messages of several kinds."""
    shapes = ((64, 14, 14), (32, 14, 14), (64, 7, 7), (64, 7, 7))
    everything = [tap(shape, 2, 1.0) for shape in shapes]
    pruned = [tap(shape, bits, 0.5) for shape, bits in zip(shapes, (1, 2, 4, 8), strict=True)]
    floats = [tap((9, 7, 7), 32, 0.5)]
    small = [tap((3, 2, 2), 2, 0.5)]
    payloads = [
        Payload(bytes(16), some_image(quality), tuple(taps))
        for quality, taps in ((90, everything), (None, pruned), (0, floats), (50, small))
    ]
    return (STORED.read_bytes(), *map(encode, payloads))


def tap(shape: tuple[int, int, int], bits: int, kept_share: float) -> TapFeatures:
    rng = np.random.default_rng(bits)
    kept = np.flatnonzero(rng.random(shape[0]) < kept_share).astype(np.int64)
    codes = draw_codes(rng, bits, (len(kept), *shape[1:]), 0.6)
    return TapFeatures(shape, kept, bits, 1.0 if bits == 32 else 0.5, codes)


def flip_a_bit(data: bytearray, rng: random.Random) -> None:
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def flip_a_bit_of_the_header(data: bytearray, rng: random.Random) -> None:
    data[rng.randrange(min(len(data), HEADER_BYTES))] ^= 1 << rng.randrange(8)


def change_a_byte(data: bytearray, rng: random.Random) -> None:
    data[rng.randrange(len(data))] = rng.randrange(256)


def write_a_telling_number(data: bytearray, rng: random.Random) -> None:
    size = rng.choice((1, 2, 4))
    at = rng.randrange(min(len(data), HEADER_BYTES))
    size = min(size, len(data) - at)
    data[at : at + size] = (rng.choice(TELLING_NUMBERS) % 256**size).to_bytes(size, "little")


def some_piece(data: bytearray, rng: random.Random) -> bytes:
    """Of another message, or of this one."""
    source = rng.choice((*samples(), bytes(data)))
    start = rng.randrange(len(source))
    return source[start : start + rng.choice((2, 8, 30, 300, 30000))]


def overwrite(data: bytearray, rng: random.Random) -> None:
    piece = some_piece(data, rng)
    at = rng.randrange(len(data))
    data[at:] = (piece + data[at + len(piece) :])[: len(data) - at]


def insert(data: bytearray, rng: random.Random) -> None:
    at = rng.randrange(len(data))
    data[at:at] = some_piece(data, rng)


def swap_the_end(data: bytearray, rng: random.Random) -> None:
    """The beginning of this message and the end of another."""
    other = rng.choice(samples())
    data[rng.randrange(len(data)) :] = other[rng.randrange(len(other)) :]


def cut(data: bytearray, rng: random.Random) -> None:
    del data[rng.randrange(1, len(data) + 1) :]


def remove(data: bytearray, rng: random.Random) -> None:
    at = rng.randrange(1, len(data) + 1)
    del data[at : at + rng.choice((1, 4, 50))]


def lengthen(data: bytearray, rng: random.Random) -> None:
    data.extend(rng.randbytes(rng.choice((1, 4, 100, 50_000))))


Damage = Callable[[bytearray, random.Random], None]
KEEPING_LENGTH: tuple[Damage, ...] = (
    flip_a_bit,
    flip_a_bit_of_the_header,
    change_a_byte,
    write_a_telling_number,
    overwrite,
)
CHANGING_LENGTH: tuple[Damage, ...] = (insert, swap_the_end, cut, remove, lengthen)


def damage(data: bytes, rng: random.Random) -> bytes:
    """One to four damages; half of the results are as long as before."""
    damages = rng.choice((KEEPING_LENGTH, KEEPING_LENGTH + CHANGING_LENGTH))
    changed = bytearray(data)
    for _ in range(rng.randint(1, MOST_DAMAGES)):
        rng.choice(damages)(changed, rng)
    return bytes(changed)


def damage_a_section(message: bytes, rng: random.Random) -> bytes:
    """Damage the image or the features of one tap; the lengths in the header, also the image's, are made right."""
    raw = RawMessage.read(message)
    full = [tap for tap in raw.taps if tap.data]
    tap = rng.choice((None, *full))
    if tap is None:
        image = damage(raw.image, rng)
        raw.image = image[:4] + struct.pack("<I", len(image) - 8 & 0xFFFFFFFF) + image[8:]
        raw.image_bytes = len(raw.image)
    else:
        tap.data = damage(tap.data, rng)
        tap.data_bytes = len(tap.data)
    return raw.write()


def damaged(number: int) -> bytes:
    """A message with a wrong checksum, or a right one, or damaged in one section with everything around it right."""
    rng = random.Random(number)
    message = rng.choice(samples())
    way = rng.choice(("whole", "whole but checksum", "section", "section"))
    if way == "section":
        return damage_a_section(message, rng)
    return with_checksum(damage(message[:-4], rng)) if way == "whole but checksum" else damage(message, rng)


@cache
def coded_samples() -> tuple[tuple[bytes, Coding], ...]:
    """Right messages of version 2 and their codings."""
    payloads = [decode(message) for message in samples()]
    codings = [coding_for(payload, seed) for seed, payload in enumerate(payloads)]
    return tuple((encode(payload, coding), coding) for payload, coding in zip(payloads, codings, strict=True))


def damage_a_part(message: bytes, rng: random.Random) -> bytes:
    """Damage the image or the features of one tap of a message of version 2; the lengths are made right."""
    raw = RawCompact.read(message)
    number = rng.randrange(-1, len(raw.data))
    if number < 0:
        raw.image = damage(raw.image, rng)
    elif raw.data[number]:
        raw.data[number] = damage(raw.data[number], rng)
    return raw.with_true_lengths().write()


def damaged_coded(number: int) -> tuple[bytes, Coding]:
    """Like `damaged`, of version 2, and the coding with which it is read."""
    rng = random.Random(number)
    message, coding = rng.choice(coded_samples())
    way = rng.choice(("whole", "whole but checksum", "part", "part"))
    if way == "part":
        return damage_a_part(message, rng), coding
    damaged_message = damage(message[:-4], rng) if way == "whole but checksum" else damage(message, rng)
    return with_checksum(damaged_message) if way == "whole but checksum" else damaged_message, coding


def process_peak_bytes() -> int:
    """The most memory that the process has held so far; 0 where the system does not tell in a known unit."""
    if sys.platform != "linux":
        return 0
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def outcome(message: bytes, coding: Coding | None = None) -> str:
    """`read`, or the words of the PayloadError that hold no number."""
    try:
        payload = decode(message, coding)
    except PayloadError as error:
        return " ".join(word for word in str(error).split() if not any(map(str.isdigit, word)))
    assert decode(encode(payload)) == payload
    return "read"


def test_damaged_messages_are_read_or_refused() -> None:
    for message in samples():
        assert outcome(message) == "read"
    parts = ("read", "checksum", "bits a value", "bytes follow the", "image cannot be decoded", "decompressed")
    check_outcomes(lambda number: (damaged(number), None), MESSAGES, parts)


def test_damaged_messages_of_version_2_are_read_or_refused() -> None:
    for message, coding in coded_samples():
        assert outcome(message, coding) == "read"
    parts = ("read", "checksum", "bytes follow the", "is of client", "image cannot be decoded", "cannot be decoded")
    check_outcomes(damaged_coded, MESSAGES // 8, parts)


def check_outcomes(make: Callable[[int], tuple[bytes, Coding | None]], count: int, parts: tuple[str, ...]) -> None:
    """Attempt `count` messages; of the outcomes each of `parts` must be in one, otherwise this would say little."""
    outcomes: Counter[str] = Counter()
    tracemalloc.start()
    try:
        before = process_peak_bytes()
        for number in range(count):
            outcomes[attempt(number, *make(number))] += 1
        assert process_peak_bytes() - before < GROWTH_BYTES
    finally:
        tracemalloc.stop()
    print("\n".join(f"{occurrences:7d}  {name}" for name, occurrences in outcomes.most_common()))
    for part in parts:
        assert any(part in name for name in outcomes), part


def attempt(number: int, message: bytes, coding: Coding | None) -> str:
    """Decode a damaged message; fails for any other exception, too much memory or too much time."""
    tracemalloc.reset_peak()
    held = tracemalloc.get_traced_memory()[0]
    start = time.thread_time()
    try:
        result = outcome(message, coding)
    except Exception as error:
        raise AssertionError(f"damaged message {number}") from error
    seconds = time.thread_time() - start
    peak = tracemalloc.get_traced_memory()[1] - held
    assert seconds < SECONDS, f"damaged message {number} took {seconds} s"
    assert peak < PEAK_BYTES, f"damaged message {number} took {peak} bytes"
    return result


@pytest.mark.parametrize("size", [0, 1, 4, 24, 25, 1000, 4 * 2**20, 4 * 2**20 + 1, 2**24])
def test_noise_is_refused(size: int) -> None:
    rng = random.Random(size)
    for start in (b"", b"PFC", b"PFC\x01", b"PFC\x01" + bytes(16) + struct.pack("<IB", 100, 8)):
        noise = (start + rng.randbytes(size))[:size]
        for message in (noise, with_checksum(noise)):
            with pytest.raises(PayloadError):
                decode(message)
