"""Messages of version 2 against docs/payload.md: a second reader, the entropy bound, what is refused."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, replace
from pathlib import Path

import constriction
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_payload_format import LOWEST_CODE, draw_codes, naive_pack, some_image, tap_features, with_checksum

from torchkit.payload import (
    FREQUENCY_TOTAL,
    Coding,
    Payload,
    PayloadError,
    TapCoding,
    TapFeatures,
    decode,
    encode,
    sizes,
)
from torchkit.payload.image import EncodedImage, restore_container, strip_container
from torchkit.payload.range_coder import decode_symbols, encode_symbols

STORED = Path(__file__).parents[1] / "assets" / "v2.pfc"
SLACK_BYTES = 6
"""The end of a stream."""


@dataclass
class RawCompact:
    """A message of version 2 field by field; any may be made wrong."""

    name: bytes
    lossless: bool
    image: bytes
    data: list[bytes]
    lengths: list[int]
    """Of image and data."""

    @classmethod
    def read(cls, message: bytes) -> RawCompact:
        magic, version, name, form = struct.unpack_from("<3sB8sB", message)
        assert (magic, version) == (b"PFC", 2)
        position, lengths = 13, []
        for _ in range(1 + form % 128):
            length, place = 0, 0
            while True:
                byte = message[position]
                length += byte % 128 * 128**place
                position, place = position + 1, place + 1
                if byte < 128:
                    break
            lengths.append(length)
        parts = []
        for length in lengths:
            parts.append(message[position : position + length])
            position += length
        assert message[position:] == struct.pack("<I", zlib.crc32(message[:position]))
        return cls(name, form >= 128, parts[0], parts[1:], lengths)

    def write(self) -> bytes:
        form = len(self.data) + 128 * self.lossless
        header = struct.pack("<3sB8sB", b"PFC", 2, self.name, form) + b"".join(map(naive_length, self.lengths))
        return with_checksum(b"".join([header, self.image, *self.data]))

    def with_true_lengths(self) -> RawCompact:
        return replace(self, lengths=[len(self.image), *map(len, self.data)])


def naive_length(length: int) -> bytes:
    digits = [length % 128]
    while length := length // 128:
        digits.append(length % 128)
    return bytes([digit + 128 for digit in digits[:-1]] + digits[-1:])


def draw_frequencies(rng: np.random.Generator, channels: int, groups: int, bits: int) -> np.ndarray:
    """(K, G, S) int64, some of them very uneven."""
    values = 0 if bits == 32 else 2**bits
    shares = rng.random((channels, groups, values)) ** rng.choice([0, 1, 8])
    rows = 1 + np.floor(shares / shares.sum(-1, keepdims=True) * (FREQUENCY_TOTAL - values)).astype(np.int64)
    if values:
        rows[..., 0] += FREQUENCY_TOTAL - rows.sum(-1)
    return rows


def coding_for(payload: Payload, seed: int) -> Coding:
    """Any that fits."""
    rng = np.random.default_rng(seed)
    taps = []
    for tap in payload.taps:
        groups = rng.choice([1, tap.shape[1] * tap.shape[2]]) if tap.bits != 32 else 1
        frequencies = draw_frequencies(rng, len(tap.kept), groups, tap.bits)
        taps.append(TapCoding(tap.shape, tap.kept, tap.bits, tap.step, frequencies))
    return Coding(payload.fingerprint, tuple(taps))


@st.composite
def coded_payloads(draw: st.DrawFn) -> tuple[Payload, Coding]:
    image = some_image(draw(st.sampled_from([None, 0, 90])))
    taps = draw(st.lists(tap_features(), min_size=1, max_size=8))
    payload = Payload(draw(st.binary(min_size=16, max_size=16)), image, tuple(taps))
    return payload, coding_for(payload, draw(st.integers(0, 2**32)))


def bound_bytes(tap: TapFeatures, frequencies: np.ndarray) -> float:
    """Bits of all codes by the frequencies, one by one, in bytes."""
    bits = 0.0
    for channel, codes in enumerate(tap.codes.reshape(len(tap.kept), tap.shape[1] * tap.shape[2]).tolist()):
        for cell, code in enumerate(codes):
            symbol = (code + 1) // 2 if tap.bits == 1 else code - LOWEST_CODE[tap.bits]
            row = frequencies[channel, cell % frequencies.shape[1]]
            bits -= np.log2(row[symbol] / FREQUENCY_TOTAL)
    return bits / 8


@given(coded_payloads())
def test_messages_read_as_documented(both: tuple[Payload, Coding]) -> None:
    payload, coding = both
    message = encode(payload, coding)
    raw = RawCompact.read(message)
    assert raw.name == payload.fingerprint[:8]
    assert restore_container(raw.lossless, raw.image) == payload.image.data
    assert raw.write() == message
    for tap, known, data in zip(payload.taps, coding.taps, raw.data, strict=True):
        if tap.bits == 32:
            assert data == naive_pack(tap.codes, 32)
        else:
            assert len(data) <= 1.001 * bound_bytes(tap, known.frequencies) + SLACK_BYTES


@given(coded_payloads())
def test_messages_read_back_as_what_was_written(both: tuple[Payload, Coding]) -> None:
    payload, coding = both
    message = encode(payload, coding)
    assert decode(message, coding) == payload
    assert encode(decode(message, coding), coding) == message
    found = sizes(message)
    raw = RawCompact.read(message)
    assert (found.image, found.features, found.message) == (len(raw.image), tuple(map(len, raw.data)), len(message))


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_codes_that_follow_their_frequencies_come_within_two_percent_of_their_entropy(bits: int) -> None:
    rng = np.random.default_rng(bits)
    frequencies = draw_frequencies(rng, 24, 196, bits)
    shares = frequencies / FREQUENCY_TOTAL
    entropy_bytes = -(shares * np.log2(shares)).sum() / 8
    symbols = (rng.random((24, 196, 1)) > shares.cumsum(-1)).sum(-1).clip(max=2**bits - 1).astype(np.int32)
    stream = encode_symbols(symbols, frequencies)
    assert len(stream) < 1.02 * entropy_bytes + 40  # the sample's own entropy is some 30 bytes off
    np.testing.assert_array_equal(decode_symbols(stream, 196, frequencies), symbols)


def test_likely_codes_take_no_bytes() -> None:
    frequencies = np.array([[[FREQUENCY_TOTAL - 3, 1, 1, 1]]], np.int64)
    symbols = np.zeros((1, 1000), np.int32)
    assert encode_symbols(symbols, frequencies) == b""
    assert not decode_symbols(b"", 1000, frequencies).any()


def test_a_short_header() -> None:
    message = encode(stored_payload(), stored_coding())
    assert sizes(message).header == 3 + 1 + 8 + 1 + 1 + (2 + 1 + 2 + 1) + 4


# The stored message


def stored_payload() -> Payload:
    """What tests/assets/v2.pfc holds, by formulas."""
    y, x = np.indices((112, 112)) // 8
    pixels = np.stack([x * 16, y * 16, (y + x) * 8], axis=-1).astype(np.uint8)
    n = np.arange(2048)
    codes = (n * n // 7 % 4) * (n % 3 // 2) - 2
    signs = n[:45] * n[:45] % 3 % 2 * 2 - 1
    none = np.zeros(0, np.int64)
    taps = (
        TapFeatures((16, 16, 16), np.arange(0, 16, 2), 2, 0.25, codes.astype(np.int8).reshape(8, 16, 16)),
        TapFeatures((3, 5, 3), np.arange(3), 1, 3.0, signs.astype(np.int8).reshape(3, 5, 3)),
        TapFeatures((1, 16, 16), np.arange(1), 8, 2.0**-100, (n[:256] - 128).astype(np.int8).reshape(1, 16, 16)),
        TapFeatures((5, 2, 2), none, 2, 1.5, none.astype(np.int8).reshape(0, 2, 2)),
    )
    restored = restore_container(True, RawCompact.read(STORED.read_bytes()).image) if STORED.exists() else None
    return Payload(
        bytes(range(16)), EncodedImage.compress(pixels) if restored is None else EncodedImage(restored, pixels), taps
    )


def stored_coding() -> Coding:
    """By a formula: frequencies that differ from value to value, from channel to channel, and not at all."""
    taps = []
    for tap, groups in zip(stored_payload().taps, (256, 1, 1, 1), strict=True):
        channel, group, symbol = np.indices((len(tap.kept), groups, 2**tap.bits))
        frequencies = 1 + (channel * 7 + group * 5 + symbol * 3) % 11 * 17
        frequencies[..., 0] += FREQUENCY_TOTAL - frequencies.sum(-1)
        taps.append(TapCoding(tap.shape, tap.kept, tap.bits, tap.step, frequencies.astype(np.int64)))
    return Coding(bytes(range(16)), tuple(taps))


def test_the_stored_message_of_version_2_is_read_and_written_alike() -> None:
    message = STORED.read_bytes()
    assert decode(message, stored_coding()) == stored_payload()
    assert encode(stored_payload(), stored_coding()) == message


# Refused


def test_a_message_of_version_2_needs_the_coding_of_its_client() -> None:
    message = STORED.read_bytes()
    with pytest.raises(PayloadError, match=r"version 2: .* the coding of its client is needed"):
        decode(message)
    with pytest.raises(PayloadError, match=r"of client 0001020304050607\.\.\., expected was 0f0f"):
        decode(message, replace(stored_coding(), fingerprint=bytes([15]) * 16))
    with pytest.raises(PayloadError, match="4 taps: this client sends 3"):
        decode(message, replace(stored_coding(), taps=stored_coding().taps[:3]))


def test_a_payload_of_another_form_than_the_coding_is_not_written() -> None:
    payload, coding = stored_payload(), stored_coding()
    for changed in (
        replace(payload, fingerprint=bytes(16)),
        replace(payload, taps=payload.taps[:3]),
        replace(payload, taps=(replace(payload.taps[0], step=0.5), *payload.taps[1:])),
    ):
        with pytest.raises(PayloadError, match="of another client than the coding"):
            encode(changed, coding)


def test_a_message_of_version_1_is_read_with_a_coding_at_hand() -> None:
    assert decode(encode(stored_payload()), stored_coding()) == stored_payload()


def test_streams_that_no_writer_makes_are_refused() -> None:
    raw = RawCompact.read(STORED.read_bytes())
    first = raw.data[0]
    for data in (first + b"\1", first + b"\0", first + first, bytes([255]) * len(first)):
        changed = replace(raw, data=[data, *raw.data[1:]]).with_true_lengths()
        with pytest.raises(PayloadError, match="features cannot be decoded"):
            decode(changed.write(), stored_coding())


def test_a_shorter_stream_is_refused_or_stands_for_other_codes() -> None:
    raw = RawCompact.read(STORED.read_bytes())
    for length in range(0, len(raw.data[0]), 7):
        changed = replace(raw, data=[raw.data[0][:length], *raw.data[1:]]).with_true_lengths().write()
        try:
            payload = decode(changed, stored_coding())
        except PayloadError:
            continue
        assert payload != stored_payload() and encode(payload, stored_coding()) == changed


def test_frequencies_of_another_client_are_noticed() -> None:
    coding = stored_coding()
    other = replace(coding.taps[0], frequencies=np.roll(coding.taps[0].frequencies, 1, axis=2))
    with pytest.raises(PayloadError, match="features cannot be decoded"):
        decode(STORED.read_bytes(), replace(coding, taps=(other, *coding.taps[1:])))


@pytest.mark.parametrize(
    ("lengths", "problem"),
    [
        (b"\x80\x00", "a length with leading zeros"),
        (b"\xff\xff\xff\xff\x01", "a length of more than 4 bytes"),
        (b"\xff\xff\xff\x7f", "bytes follow the header"),
        (b"\x80", "cut short"),
    ],
)
def test_wrong_lengths_are_refused(lengths: bytes, problem: str) -> None:
    start = struct.pack("<3sB8sB", b"PFC", 2, bytes(range(8)), 1)
    tail = b"" if problem == "cut short" else bytes(4)
    with pytest.raises(PayloadError, match=problem):
        decode(with_checksum(start + lengths + tail), stored_coding())


@pytest.mark.parametrize("taps", [0, 9, 127])
def test_wrong_tap_counts_are_refused(taps: int) -> None:
    start = struct.pack("<3sB8sB", b"PFC", 2, bytes(range(8)), taps)
    with pytest.raises(PayloadError, match=f"{taps} taps: allowed are 1 to 8"):
        decode(with_checksum(start + bytes(500)), stored_coding())


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda f: f[:, :, :3], "frequencies"),
        (lambda f: f[:4], "frequencies"),
        (lambda f: f[:, :7], "of 7 values a channel: allowed are 1, 256"),
        (lambda f: f - 1, "at least 1"),
        (lambda f: f * 2, "add up to 65536"),
        (lambda f: f.astype(np.int32), "int32: expected"),
        (lambda f: f.tolist(), "expected a NumPy array"),
    ],
)
def test_wrong_frequencies_are_refused(change: object, problem: str) -> None:
    tap = stored_coding().taps[0]
    assert callable(change)
    with pytest.raises(PayloadError, match=problem):
        replace(tap, frequencies=change(tap.frequencies))


# Images without their container


@pytest.mark.parametrize("quality", [None, 0, 1, 50, 90, 100])
def test_an_image_without_its_container_is_the_same_image(quality: int | None) -> None:
    for seed in range(4):
        pixels = np.roll(some_image(None).pixels, seed * 5, axis=1)
        data = EncodedImage.compress(pixels, quality).data
        lossless, stripped = strip_container(data)
        assert lossless == (quality is None)
        assert len(data) - len(stripped) in (25, 26, 27, 28)
        assert restore_container(lossless, stripped) == data


@given(st.booleans(), st.binary(max_size=40))
def test_any_stripped_image_is_read_or_refused(lossless: bool, stripped: bytes) -> None:
    with pytest.raises(PayloadError):
        EncodedImage.read(restore_container(lossless, stripped))


def test_padding_that_would_be_lost_is_refused() -> None:
    data = EncodedImage.compress(some_image(None).pixels, 90).data
    for last, refused in ((b"\1", True), (b"\0", False)):
        padded = data[:16] + struct.pack("<I", len(data) - 21) + data[20:-1] + last
        if refused:
            with pytest.raises(PayloadError, match="padded with something else"):
                strip_container(padded)
        else:
            assert restore_container(*strip_container(padded)) == padded


def test_models_are_those_that_constriction_documents() -> None:
    """As one model for each symbol, without the family that the toolkit uses."""
    rng = np.random.default_rng(0)
    frequencies = draw_frequencies(rng, 3, 5, 4)
    symbols = rng.integers(0, 16, (3, 5)).astype(np.int32)
    encoder = constriction.stream.queue.RangeEncoder()
    for row, of_row in zip(symbols, frequencies, strict=True):
        for symbol, of_symbol in zip(row, of_row, strict=True):
            model = constriction.stream.model.Categorical(of_symbol.astype(np.float64), perfect=False, lazy=False)
            encoder.encode(np.array([symbol], np.int32), model)
    expected = encoder.get_compressed().astype(">u4").tobytes().rstrip(b"\0")
    assert encode_symbols(symbols, frequencies) == expected


def test_no_codes_are_no_bytes() -> None:
    codes = draw_codes(np.random.default_rng(0), 2, (0, 3, 3), 0.5)
    coding = TapCoding((4, 3, 3), np.zeros(0, np.int64), 2, 1.0, np.zeros((0, 9, 4), np.int64))
    assert coding.write(codes) == b""
    assert coding.read(b"").codes.shape == (0, 3, 3)
    with pytest.raises(PayloadError, match="features cannot be decoded"):
        coding.read(b"\1")
