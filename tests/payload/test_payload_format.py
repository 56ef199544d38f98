"""The bytes of a message against docs/payload.md, read and written by a second implementation of that page."""

from __future__ import annotations

import re
import struct
import subprocess
import sys
import zlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import zstandard
from conftest import draw_face
from hypothesis import given
from hypothesis import strategies as st

from torchkit.payload import EncodedImage, Payload, TapFeatures, decode, encode, sizes
from torchkit.payload.image import SIDE_PX
from torchkit.payload.packing import pack, packed_bytes, unpack
from torchkit.util.pixels import INPUT_SIZE_PX

ROOT = Path(__file__).parents[2]
STORED = ROOT / "tests" / "assets" / "v1.pfc"
LOWEST_CODE = {1: -1, 2: -2, 4: -8, 8: -128}


@dataclass
class RawTap:
    """A tap entry and its data, as they stand in a message; any field may be made wrong."""

    channels: int
    height: int
    width: int
    bits: int
    flags: int
    step: float
    data_bytes: int
    bitmap: bytes = b""
    data: bytes = b""


@dataclass
class RawMessage:
    """A message field by field."""

    magic: bytes
    version: int
    fingerprint: bytes
    image_bytes: int
    tap_count: int
    taps: list[RawTap]
    image: bytes

    @classmethod
    def read(cls, message: bytes) -> RawMessage:
        raw = cls(*struct.unpack_from("<3sB16sIB", message), taps=[], image=b"")
        position = 25
        for _ in range(raw.tap_count):
            tap = RawTap(*struct.unpack_from("<HHHBBfI", message, position))
            bitmap_bytes = -(-tap.channels // 8) if tap.flags & 1 else 0
            tap.bitmap = message[position + 16 : position + 16 + bitmap_bytes]
            position += 16 + bitmap_bytes
            raw.taps.append(tap)
        raw.image = message[position : position + raw.image_bytes]
        position += raw.image_bytes
        for tap in raw.taps:
            tap.data = message[position : position + tap.data_bytes]
            position += tap.data_bytes
        assert message[position:] == struct.pack("<I", zlib.crc32(message[:position]))
        return raw

    def write(self) -> bytes:
        start = (self.magic, self.version, self.fingerprint, self.image_bytes, self.tap_count)
        parts = [struct.pack("<3sB16sIB", *start)]
        for tap in self.taps:
            fields = (tap.channels, tap.height, tap.width, tap.bits, tap.flags, tap.step, tap.data_bytes)
            parts += [struct.pack("<HHHBBfI", *fields), tap.bitmap]
        return with_checksum(b"".join([*parts, self.image, *(tap.data for tap in self.taps)]))


def with_checksum(covered: bytes) -> bytes:
    return covered + struct.pack("<I", zlib.crc32(covered))


def naive_pack(codes: np.ndarray, bits: int) -> bytes:
    """Symbols as the digits of one long number, the first the lowest; floats as four planes."""
    values = codes.ravel().tolist()
    if bits == 32:
        quads = [struct.pack("<f", value) for value in values]
        return b"".join(bytes(quad[plane] for quad in quads) for plane in range(4))
    symbols = [(code + 1) // 2 if bits == 1 else code - LOWEST_CODE[bits] for code in values]
    number = sum(symbol << (place * bits) for place, symbol in enumerate(symbols))
    return number.to_bytes(-(-len(values) * bits // 8), "little")


def naive_bitmap(kept: np.ndarray, channels: int) -> bytes:
    return sum(1 << int(channel) for channel in kept).to_bytes(-(-channels // 8), "little")


def all_raw(payload: Payload) -> RawMessage:
    """The message of a payload with nothing compressed."""
    taps = []
    for tap in payload.taps:
        pruned = len(tap.kept) < tap.shape[0]
        data = naive_pack(tap.codes, tap.bits)
        bitmap = naive_bitmap(tap.kept, tap.shape[0]) if pruned else b""
        taps.append(RawTap(*tap.shape, tap.bits, int(pruned), tap.step, len(data), bitmap, data))
    image = payload.image.data
    return RawMessage(b"PFC", 1, payload.fingerprint, len(image), len(taps), taps, image)


def draw_codes(rng: np.random.Generator, bits: int, shape: tuple[int, ...], zeros: float) -> np.ndarray:
    """Codes of which about a part `zeros` are the code nearest to zero from below."""
    if bits == 32:
        codes = rng.normal(size=shape).astype(np.float32)
        codes[rng.random(shape) < zeros] = 0
        return codes
    low = LOWEST_CODE[bits]
    codes = rng.integers(low, -low, shape) if bits > 1 else rng.integers(0, 2, shape) * 2 - 1
    codes[rng.random(shape) < zeros] = -1 if bits == 1 else 0
    return codes.astype(np.int8)


@cache
def some_image(quality: int | None) -> EncodedImage:
    return EncodedImage.compress(draw_face(0), quality)


@st.composite
def tap_features(draw: st.DrawFn) -> TapFeatures:
    channels, height, width = draw(st.integers(1, 40)), draw(st.integers(1, 15)), draw(st.integers(1, 15))
    kept = draw(st.one_of(st.just(set(range(channels))), st.sets(st.integers(0, channels - 1))))
    bits = draw(st.sampled_from([1, 2, 4, 8, 32]))
    step = 1.0 if bits == 32 else draw(st.floats(2.0**-126, 2.0**120, width=32))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    codes = draw_codes(rng, bits, (len(kept), height, width), draw(st.sampled_from([0.0, 0.5, 0.95, 1.0])))
    return TapFeatures((channels, height, width), np.array(sorted(kept), np.int64), bits, step, codes)


@st.composite
def payloads(draw: st.DrawFn) -> Payload:
    image = some_image(draw(st.sampled_from([None, 0, 50, 90, 100])))
    taps = draw(st.lists(tap_features(), min_size=1, max_size=8))
    return Payload(draw(st.binary(min_size=16, max_size=16)), image, tuple(taps))


def stored_payload() -> Payload:
    """What tests/assets/v1.pfc holds, by formulas."""
    y, x = np.indices((112, 112)) // 8
    pixels = np.stack([y * 16, x * 16, (y + x) * 8], axis=-1).astype(np.uint8)
    n = np.arange(2048)
    sparse = (n * n // 7 % 4) * (n % 3 // 2) - 2
    squares = n[:45] * n[:45] % 3 % 2 * 2 - 1
    none = np.zeros(0, np.int64)
    taps = (
        TapFeatures((16, 16, 16), np.arange(0, 16, 2), 2, 0.25, sparse.astype(np.int8).reshape(8, 16, 16)),
        TapFeatures((3, 5, 3), np.arange(3), 1, 3.0, squares.astype(np.int8).reshape(3, 5, 3)),
        TapFeatures((9, 4, 4), np.arange(1, 9), 4, 2.0**-7, (n[:128] % 16 - 8).astype(np.int8).reshape(8, 4, 4)),
        TapFeatures((1, 16, 16), np.arange(1), 8, 2.0**-100, (n[:256] - 128).astype(np.int8).reshape(1, 16, 16)),
        TapFeatures((2, 8, 8), np.arange(2), 32, 1.0, ((n[:128] - 64) / 8).astype(np.float32).reshape(2, 8, 8)),
        TapFeatures((5, 2, 2), none, 2, 1.5, none.astype(np.int8).reshape(0, 2, 2)),
    )
    # The stored stream itself: what another version of the library would write for the same pixels may differ.
    image = EncodedImage(RawMessage.read(STORED.read_bytes()).image, pixels)
    return Payload(bytes(range(16)), image, taps)


@given(st.sampled_from([1, 2, 4, 8, 32]), st.integers(0, 70), st.integers(0, 2**32))
def test_packing_is_a_number_in_base_two_to_the_bits(bits: int, count: int, seed: int) -> None:
    codes = draw_codes(np.random.default_rng(seed), bits, (count,), 0.2)
    packed = pack(codes, bits)
    assert packed == naive_pack(codes, bits)
    assert len(packed) == packed_bytes(count, bits)
    unpacked = unpack(packed, count, bits)
    assert unpacked.dtype == codes.dtype
    np.testing.assert_array_equal(unpacked, codes)


def test_every_code_of_every_width_packs() -> None:
    for bits, codes in {1: [-1, 1], 2: range(-2, 2), 4: range(-8, 8), 8: range(-128, 128)}.items():
        array = np.array(codes, np.int8)
        assert pack(array, bits) == naive_pack(array, bits)
        assert unpack(naive_pack(array, bits), len(array), bits).tolist() == list(codes)


@given(payloads())
def test_messages_read_as_documented(payload: Payload) -> None:
    message = encode(payload)
    raw = RawMessage.read(message)
    assert (raw.magic, raw.version, raw.fingerprint) == (b"PFC", 1, payload.fingerprint)
    assert raw.image == payload.image.data
    assert raw.tap_count == len(payload.taps)
    for entry, tap in zip(raw.taps, payload.taps, strict=True):
        assert (entry.channels, entry.height, entry.width) == tap.shape
        assert (entry.bits, entry.step) == (tap.bits, tap.step)
        assert entry.flags & 1 == (len(tap.kept) < tap.shape[0])
        assert entry.bitmap == (naive_bitmap(tap.kept, tap.shape[0]) if entry.flags & 1 else b"")
        packed = naive_pack(tap.codes, tap.bits)
        if entry.flags & 2:
            assert len(entry.data) < len(packed)
            assert zstandard.ZstdDecompressor().decompress(entry.data) == packed
        else:
            assert entry.data == packed


@given(payloads())
def test_sizes_add_up(payload: Payload) -> None:
    message = encode(payload)
    raw = RawMessage.read(message)
    found = sizes(message)
    assert found.image == len(payload.image.data)
    assert found.features == tuple(len(tap.data) for tap in raw.taps)
    assert found.header == 25 + sum(16 + len(tap.bitmap) for tap in raw.taps) + 4
    assert found.message == len(message)
    assert sizes(memoryview(message)) == found


@given(payloads())
def test_messages_without_compression_are_read(payload: Payload) -> None:
    assert decode(all_raw(payload).write()) == payload


def test_sparse_codes_come_near_their_entropy() -> None:
    share = np.array([0.1, 0.2, 0.6, 0.1])
    codes = np.random.default_rng(0).choice(np.arange(-2, 2, dtype=np.int8), (128, 14, 14), p=share)
    tap = TapFeatures(codes.shape, np.arange(128), 2, 1.0, codes)
    (found,) = sizes(encode(Payload(bytes(16), some_image(90), (tap,)))).features
    entropy_bytes = -(share * np.log2(share)).sum() * codes.size / 8
    assert found < 1.04 * entropy_bytes


def test_the_stored_message_of_version_1_is_read() -> None:
    message = STORED.read_bytes()
    assert {tap.flags for tap in RawMessage.read(message).taps} == {0, 1, 2, 3}
    assert decode(message) == stored_payload()


def test_the_stored_message_written_again_says_the_same() -> None:
    payload = stored_payload()
    assert decode(encode(payload)) == payload
    assert decode(all_raw(payload).write()) == payload


def test_the_documented_example() -> None:
    text = (ROOT / "docs" / "payload.md").read_text()
    lines = re.findall(r"^[0-9a-f]0  ((?:[0-9a-f]{2} ?)+)$", text, re.MULTILINE)
    payload = decode(bytes.fromhex(" ".join(lines)))
    assert payload.fingerprint == bytes(range(16))
    assert (payload.image.pixels == 128).all()
    (tap,) = payload.taps
    assert tap.codes.tolist() == [[[1, -2]]]
    assert tap.values().tolist() == [[[0.0, 0.0]], [[0.5, -1.0]]]


def test_images_have_the_size_of_network_inputs() -> None:
    assert SIDE_PX == INPUT_SIZE_PX


def test_messages_are_read_without_torch() -> None:
    code = "import sys, torchkit.payload; sys.exit('torch' in sys.modules or 'cv2' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
