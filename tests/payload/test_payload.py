"""Round trips of payloads, and everything that is refused: contents, images, frames, header fields."""

from __future__ import annotations

import io
import struct
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from typing import Any

import cv2
import numpy as np
import pytest
import zstandard
from conftest import draw_face
from hypothesis import given
from PIL import Image
from test_payload_format import (
    RawMessage,
    RawTap,
    all_raw,
    draw_codes,
    payloads,
    some_image,
    tap_features,
    with_checksum,
)

from torchkit.payload import EncodedImage, Payload, PayloadError, TapFeatures, decode, encode, sizes

MESSAGE_LIMIT_BYTES = 4 * 2**20
VALUE_LIMIT = 2**20
SMALL_PEAK_BYTES = 2**18


def some_tap(bits: int = 2, kept: tuple[int, ...] = (1, 2, 5), zeros: float = 0.9) -> TapFeatures:
    codes = draw_codes(np.random.default_rng(0), bits, (len(kept), 19, 19), zeros)
    return TapFeatures((7, 19, 19), np.array(kept, np.int64), bits, 1.0 if bits == 32 else 0.5, codes)


def some_payload() -> Payload:
    return Payload(bytes(range(16)), some_image(None), (some_tap(), some_tap(1, (), 0.0), some_tap(32)))


@cache
def some_message() -> bytes:
    return encode(some_payload())


def peak_bytes(call: Callable[[], object]) -> int:
    """How much Python and NumPy hold at the peak, beside what they held before."""
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def refuse(message: Any, match: str, *, warm_up: bool = True) -> None:
    """Check that `message` is refused, and before anything large is allocated."""

    def attempt() -> None:
        with pytest.raises(PayloadError, match=match):
            decode(message)

    if warm_up:
        decode(some_message())  # what a first call imports and caches does not count
    assert peak_bytes(attempt) < SMALL_PEAK_BYTES


# --- round trips ---


@given(payloads())
def test_round_trip(payload: Payload) -> None:
    message = encode(payload)
    decoded = decode(message)
    assert decoded == payload
    assert encode(decoded) == message


@given(tap_features())
def test_values_are_step_times_code(tap: TapFeatures) -> None:
    values = tap.values()
    assert values.shape == tap.shape
    assert values.dtype == np.float32
    expected = np.zeros(tap.shape, np.float32)
    for position, channel in enumerate(tap.kept.tolist()):
        expected[channel] = np.float32(tap.step) * tap.codes[position].astype(np.float32)
    np.testing.assert_array_equal(values, expected)
    assert np.isfinite(values).all()


def test_any_bytes_like_message_is_read() -> None:
    message = some_message()
    spread = np.repeat(np.frombuffer(message, np.uint8), 2)
    for like in (bytearray(message), memoryview(message), memoryview(spread)[::2]):
        assert decode(like) == some_payload()


@pytest.mark.parametrize("count", range(1, 40))
def test_features_that_compress_hardly_or_not_at_all(count: int) -> None:
    tap = TapFeatures((1, 1, count), np.arange(1), 8, 1.0, np.zeros((1, 1, count), np.int8))
    payload = Payload(bytes(16), some_image(50), (tap,))
    message = encode(payload)
    assert sizes(message).features[0] <= count
    assert decode(message) == payload


def test_changing_the_input_later_changes_nothing() -> None:
    message = bytearray(some_message())
    decoded = decode(message)
    message[:] = bytes(len(message))
    assert decoded == some_payload()


def of_floats(values: np.ndarray) -> Payload:
    tap = TapFeatures(values.shape, np.arange(len(values)), 32, 1.0, values)
    return Payload(bytes(16), some_image(50), (tap,))


def incompressible(channels: int) -> np.ndarray:
    """(channels, 16, 16) float32, any finite number."""
    rng, shape = np.random.default_rng(0), (channels, 16, 16)
    return (rng.integers(0, 0x7F800000, shape, np.uint32) | rng.integers(0, 2, shape, np.uint32) << 31).view(np.float32)


def test_the_largest_messages_take_bounded_memory() -> None:
    most_values, most_bytes = np.zeros((4096, 16, 16), np.float32), incompressible(4090)
    assert most_values.size == VALUE_LIMIT
    for values, low, high in ((most_values, 0, 3000), (most_bytes, 0.99 * MESSAGE_LIMIT_BYTES, MESSAGE_LIMIT_BYTES)):
        message = encode(of_floats(values))
        assert low < len(message) < high
        assert peak_bytes(partial(decode, message)) < 24 * 2**20
        assert decode(message) == of_floats(values)


def test_a_message_beyond_the_limit_is_not_written() -> None:
    with pytest.raises(PayloadError, match=r"message of \d+ bytes: allowed are 4194304"):
        encode(of_floats(incompressible(4096)))


# --- payloads ---


def test_equality_is_by_content() -> None:
    assert some_payload() == some_payload()
    assert some_tap() != "a tap"
    assert some_image(None) != "an image"
    payload, tap = some_payload(), some_tap()
    for other in (
        replace(payload, fingerprint=bytes(16)),
        replace(payload, image=some_image(90)),
        replace(payload, image=EncodedImage(payload.image.data, 255 - payload.image.pixels)),
        replace(payload, taps=payload.taps[:2]),
    ):
        assert other != payload
    for changed in (
        replace(tap, shape=(8, 19, 19)),
        replace(tap, kept=np.array([1, 2, 6])),
        replace(tap, bits=4),
        replace(tap, step=0.25),
        replace(tap, codes=np.zeros((3, 19, 19), np.int8)),
    ):
        assert changed != tap


def test_contents_cannot_be_changed_after_they_were_checked() -> None:
    codes, kept = np.zeros((2, 3, 3), np.int8), np.array([0, 4])
    tap = TapFeatures((5, 3, 3), kept, 2, 0.5, codes)
    codes[:], kept[:] = 100, 100
    assert tap.kept.tolist() == [0, 4]
    assert not tap.codes.any()
    for array in (tap.codes, tap.kept, some_image(None).pixels, decode(some_message()).image.pixels):
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"shape": [7, 19, 19]}, "tuple of three"),
        ({"shape": (7, 19)}, "tuple of three"),
        ({"shape": (7, 19, 19.0)}, "tuple of three"),
        ({"shape": (0, 19, 19)}, "1 to 4096 channels"),
        ({"shape": (4097, 19, 19)}, "1 to 4096 channels"),
        ({"shape": (7, 0, 19)}, "sides 1 to 256"),
        ({"shape": (7, 19, 257)}, "sides 1 to 256"),
        ({"shape": (17, 256, 256)}, "1114112 values"),
        ({"bits": 3}, "3 bits"),
        ({"bits": 2.0}, r"2\.0 bits"),
        ({"step": 0.0}, "step 0"),
        ({"step": -1.0}, "step -1"),
        ({"step": 0.1}, "step 0.1"),
        ({"step": float("nan")}, "step nan"),
        ({"step": float("inf")}, "step inf"),
        ({"step": 2.0**121}, "step 2"),
        ({"step": 1}, "step 1"),
        ({"bits": 32}, "step 0.5 with 32 bits"),
        ({"kept": [1, 2, 5]}, "NumPy array, not list"),
        ({"kept": np.array([1, 2, 5], np.int32)}, "int32"),
        ({"kept": np.array([[1], [2], [5]])}, r"\(3, 1\)"),
        ({"kept": np.array([1, 5, 2])}, "must rise"),
        ({"kept": np.array([1, 1, 2])}, "must rise"),
        ({"kept": np.array([-1, 1, 2])}, r"0\.\.6"),
        ({"kept": np.array([1, 2, 7])}, r"0\.\.6"),
        ({"kept": np.array([1, 2])}, r"expected \(2, 19, 19\)"),
        ({"codes": np.zeros((3, 19, 18), np.int8)}, r"expected \(3, 19, 19\)"),
        ({"codes": np.zeros((3, 19, 19), np.uint8)}, "int8"),
        ({"codes": np.full((3, 19, 19), 2, np.int8)}, "code 2 "),
        ({"codes": np.full((3, 19, 19), -3, np.int8)}, "code -3 "),
        ({"bits": 4, "codes": np.full((3, 19, 19), 8, np.int8)}, "code 8 "),
        ({"bits": 1, "codes": np.zeros((3, 19, 19), np.int8)}, "code 0 "),
        ({"bits": 1, "codes": np.full((3, 19, 19), -128, np.int8)}, "code -128 "),
        ({"bits": 32, "step": 1.0, "codes": np.full((3, 19, 19), np.nan, np.float32)}, "code nan"),
        ({"bits": 32, "step": 1.0, "codes": np.full((3, 19, 19), np.inf, np.float32)}, "code inf"),
        ({"bits": 32, "step": 1.0, "codes": np.zeros((3, 19, 19))}, "float64"),
    ],
)
def test_wrong_features_are_refused(change: dict[str, Any], match: str) -> None:
    with pytest.raises(PayloadError, match=match):
        replace(some_tap(), **change)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"fingerprint": bytes(15)}, "expected 16 bytes"),
        ({"fingerprint": bytearray(16)}, "expected 16 bytes"),
        ({"image": np.zeros((112, 112, 3), np.uint8)}, "not ndarray"),
        ({"taps": ()}, "0 taps"),
        ({"taps": (some_tap(),) * 9}, "9 taps"),
        ({"taps": [some_tap()]}, "tuple of TapFeatures"),
        ({"taps": (None,)}, "tuple of TapFeatures"),
        (
            {"taps": (TapFeatures((16, 200, 200), np.zeros(0, int), 2, 1.0, np.zeros((0, 200, 200), np.int8)),) * 2},
            "1280000 values",
        ),
    ],
)
def test_wrong_payloads_are_refused(change: dict[str, Any], match: str) -> None:
    with pytest.raises(PayloadError, match=match):
        replace(some_payload(), **change)


# --- images ---


def webp(size: tuple[int, int] = (112, 112), mode: str = "RGB", **options: Any) -> bytes:
    stream = io.BytesIO()
    Image.new(mode, size, (10, 20, 30, 40)[: len(mode)]).save(stream, "WEBP", **options)
    return stream.getvalue()


def test_lossless_images_are_exact() -> None:
    pixels = draw_face(3)
    image = EncodedImage.compress(pixels)
    np.testing.assert_array_equal(image.pixels, pixels)
    np.testing.assert_array_equal(cv2.imdecode(np.frombuffer(image.data, np.uint8), 1)[..., ::-1], pixels)
    assert EncodedImage.read(image.data) == image


def test_lossy_images_show_what_the_server_will_see() -> None:
    pixels = draw_face(3)
    images = [EncodedImage.compress(pixels, quality) for quality in (0, 50, 100)]
    for image in images:
        np.testing.assert_array_equal(EncodedImage.read(image.data).pixels, image.pixels)
    errors = [abs(image.pixels.astype(int) - pixels).mean() for image in images]
    assert errors == sorted(errors, reverse=True)
    assert 0 < errors[2] < 8
    assert [len(image.data) for image in images] == sorted(len(image.data) for image in images)


def test_a_view_of_a_image_compresses() -> None:
    pixels = draw_face(4)
    np.testing.assert_array_equal(EncodedImage.compress(pixels[:, ::-1]).pixels, pixels[:, ::-1])


@pytest.mark.parametrize("quality", [-1, 101, 50.5, "90"])
def test_wrong_quality_is_refused(quality: Any) -> None:
    with pytest.raises(PayloadError, match="allowed are 0 to 100"):
        EncodedImage.compress(draw_face(0), quality)


@pytest.mark.parametrize("shape", [(112, 112), (112, 112, 4), (3, 112, 112), (113, 112, 3)])
def test_wrong_pixels_are_refused(shape: tuple[int, ...]) -> None:
    for pixels, match in ((np.zeros(shape, np.uint8), "expected"), (np.zeros((112, 112, 3)), "float64")):
        with pytest.raises(PayloadError, match=match):
            EncodedImage.compress(pixels)
        with pytest.raises(PayloadError, match=match):
            EncodedImage(some_image(None).data, pixels)


def vp8x(width: int, height: int) -> bytes:
    """A file in the extended form that states a canvas and has no pixels."""
    chunk = b"VP8X" + struct.pack("<II", 10, 0) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return b"RIFF" + struct.pack("<I", len(chunk) + 4) + b"WEBP" + chunk


def with_riff_bytes(data: bytes, more: int) -> bytes:
    """A stream whose outer length is its own plus `more`."""
    return data[:4] + struct.pack("<I", len(data) - 8 + more) + data[8:]


def resized(data: bytes, width: int) -> bytes:
    """A lossless stream that states another width."""
    return data[:21] + struct.pack("<I", width - 1 | 111 << 14) + data[25:]


def jpeg() -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (112, 112)).save(stream, "JPEG")
    return stream.getvalue()


def animation() -> bytes:
    frames = [Image.new("RGB", (112, 112), (level, 0, 0)) for level in (0, 200)]
    stream = io.BytesIO()
    frames[0].save(stream, "WEBP", save_all=True, append_images=frames[1:])
    return stream.getvalue()


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"", "20 to 4194304 bytes"),
        (b"RIFF", "20 to 4194304 bytes"),
        (bytearray(webp()), "20 to 4194304 bytes"),
        (bytes(100), "not WebP"),
        (jpeg(), "not WebP"),
        (webp(lossless=True)[:12] + b"VP8Q" + webp(lossless=True)[16:], "not WebP"),
        (webp(exif=b"Exif\0\0place"), "not WebP in one chunk"),
        (webp(mode="RGBA"), "not WebP in one chunk"),
        (animation(), "not WebP in one chunk"),
        (vp8x(112, 112), "not WebP in one chunk"),
        (vp8x(16384, 16384), "not WebP in one chunk"),
        (webp()[:-1], "another length"),
        (webp() + b"\0\0", "another length"),
        (with_riff_bytes(webp(), -2), "another length"),
        (with_riff_bytes(webp() + b"\0\0", 0), "another length"),
        (webp(mode="RGBA", lossless=True), "transparency"),
        (webp((111, 112)), "not 112x112"),
        (webp((112, 113), lossless=True), "not 112x112"),
        (webp((4000, 4000)), "not 112x112"),
        (resized(webp(lossless=True), 16384), "not 112x112"),
        (webp()[:27] + b"\x40" + webp()[28:], "upscaling"),
        (webp(lossless=True)[:25] + b"\xff" * (len(webp(lossless=True)) - 25), "cannot be decoded"),
        (webp()[:30] + b"\xff" * (len(webp()) - 30), "cannot be decoded"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_wrong_images_are_refused(data: bytes, match: str) -> None:
    def read() -> None:
        with pytest.raises(PayloadError, match=match):
            EncodedImage.read(data)

    assert peak_bytes(read) < SMALL_PEAK_BYTES
    raw = RawMessage.read(some_message())
    raw.image, raw.image_bytes = bytes(data), len(data)
    if isinstance(data, bytes):
        refuse(raw.write(), match)


@pytest.mark.parametrize("kind", [SyntaxError, EOFError, MemoryError, struct.error, Image.DecompressionBombWarning])
def test_whatever_pillow_raises_is_a_payload_error(kind: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise kind("damaged")

    monkeypatch.setattr(Image, "open", fail)
    refuse(some_message(), "cannot be decoded: damaged", warm_up=False)


# --- messages ---


def set_tap(name: str, value: Any, tap: int = 0) -> Callable[[RawMessage], None]:
    return lambda raw: setattr(raw.taps[tap], name, value)


def set_field(name: str, value: Any) -> Callable[[RawMessage], None]:
    return lambda raw: setattr(raw, name, value)


def set_data(make: Callable[[bytes], bytes], tap: int = 0) -> Callable[[RawMessage], None]:
    """Replace a tap's data, with the right length in the header."""

    def change(raw: RawMessage) -> None:
        entry = raw.taps[tap]
        entry.data = make(entry.data)
        entry.data_bytes = len(entry.data)

    return change


def many_taps(count: int) -> Callable[[RawMessage], None]:
    def change(raw: RawMessage) -> None:
        raw.taps = [RawTap(64, 16, 1, 2, 1, 1.0, 0, bytes(8)) for _ in range(count)]
        raw.tap_count = count

    return change


def every_channel_in_a_bitmap(raw: RawMessage) -> None:
    tap = raw.taps[1]
    tap.bitmap, tap.data, tap.data_bytes = b"\x7f", bytes(316), 316


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (set_field("magic", b"PFX"), "not a message"),
        (set_field("version", 0), "version 00"),
        (set_field("version", 3), "version 03"),
        (set_field("image_bytes", 0), "bytes follow the header"),
        (set_field("image_bytes", 2**32 - 1), "bytes follow the header"),
        (set_field("tap_count", 0), "0 taps"),
        (set_field("tap_count", 2), "bytes follow the header"),
        (set_field("tap_count", 4), "1 to 4096 channels"),
        (set_field("tap_count", 9), "9 taps"),
        (set_field("tap_count", 255), "255 taps"),
        (many_taps(255), "255 taps"),
        (many_taps(9), "9 taps"),
        (lambda raw: raw.taps.clear(), "1 to 4096 channels"),
        (set_tap("channels", 0), "1 to 4096 channels"),
        (set_tap("channels", 4097), "1 to 4096 channels"),
        (set_tap("channels", 65535), "1 to 4096 channels"),
        (set_tap("channels", 4), "behind the last of 4 channels"),
        (set_tap("height", 0), "sides 1 to 256"),
        (set_tap("height", 257), "sides 1 to 256"),
        (set_tap("width", 0), "sides 1 to 256"),
        (set_tap("width", 65535), "sides 1 to 256"),
        (set_tap("bits", 0), "0 bits"),
        (set_tap("bits", 16), "16 bits"),
        (set_tap("bits", 255), "255 bits"),
        (set_tap("flags", 7), "flags 7"),
        (set_tap("flags", 128), "flags 128"),
        (set_tap("step", 0.0), "step 0"),
        (set_tap("step", -0.5), "step -0.5"),
        (set_tap("step", float("nan")), "step nan"),
        (set_tap("step", float("inf")), "step inf"),
        (set_tap("step", 2.0, tap=2), "step 2.0 with 32 bits"),
        (set_tap("data_bytes", 0), "bytes follow the header"),
        (set_tap("data_bytes", 2**32 - 1), "fewer than 271"),
        (set_tap("data_bytes", 271), "fewer than 271"),
        (set_tap("flags", 1), "expected 271"),
        (set_tap("data_bytes", 1, tap=1), "1 bytes of features: expected 0"),
        (set_tap("flags", 3, tap=1), "fewer than 0"),
        (set_tap("bitmap", b"\x80"), "behind the last of 7 channels"),
        (every_channel_in_a_bitmap, "keeps all channels"),
        (set_tap("bitmap", b"\x27"), "frame of 271 bytes: expected 361"),
        (set_data(lambda data: data[:-1]), "cannot be decompressed"),
        (set_data(lambda data: data + b"\0"), "cannot be decompressed"),
        (set_data(lambda data: b""), "cannot be decompressed"),
        (set_data(lambda data: bytes(len(data))), "cannot be decompressed"),
    ],
)
def test_wrong_fields_are_refused(change: Callable[[RawMessage], None], match: str) -> None:
    raw = RawMessage.read(some_message())
    change(raw)
    refuse(raw.write(), match)


def test_sizes_of_a_wrong_header_are_refused() -> None:
    raw = RawMessage.read(some_message())
    raw.taps[0].bits = 3
    for message, match in ((raw.write(), "3 bits"), (some_message()[:-1], "checksum"), (b"", "not a message")):
        with pytest.raises(PayloadError, match=match):
            sizes(message)


def frame(content: bytes, **options: Any) -> bytes:
    return zstandard.ZstdCompressor(level=1, **options).compress(content)


def stated(size: int, content: bytes = bytes(1000)) -> bytes:
    """A frame of one segment that states `size` bytes and holds `content`, in a block of equal bytes."""
    header = struct.pack("<IBQ", 0xFD2FB528, 0b11100000, size)
    return header + (len(content) << 3 | 1 << 1 | 1).to_bytes(3, "little") + content[:1]


def with_window(exponent: int, content_size: int) -> bytes:
    """A frame with a window of 2**exponent bytes; 1000 zeros in a block of equal bytes."""
    header = struct.pack("<IBBI", 0xFD2FB528, 0b10000000, (exponent - 10) << 3, content_size)
    return header + (1000 << 3 | 1 << 1 | 1).to_bytes(3, "little") + b"\0"


def thousand_bytes(data: bytes) -> bytes:
    """A message with a tap that is announced as a frame of 1000 bytes."""
    raw = RawMessage.read(some_message())
    raw.taps, raw.tap_count = [RawTap(10, 10, 10, 8, 2, 1.0, len(data), b"", data)], 1
    return raw.write()


@pytest.mark.parametrize("data", [frame(bytes(1000)), stated(1000), with_window(22, 1000)])
def test_right_frames_are_read(data: bytes) -> None:
    (tap,) = decode(thousand_bytes(data)).taps
    assert (tap.codes == -128).all()
    assert tap.codes.shape == (10, 10, 10)


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (frame(bytes(999)), "frame of 999 bytes: expected 1000"),
        (frame(bytes(1001)), "frame of 1001 bytes"),
        (frame(b""), "frame of 0 bytes"),
        (frame(bytes(2**24)), "frame of 16777216 bytes"),
        (stated(2**60), f"frame of {2**60} bytes"),
        (stated(2**64 - 2), "frame of"),
        (stated(1000, bytes(999)), "cannot be decompressed"),
        (stated(1000, bytes(1001)), "cannot be decompressed"),
        (frame(bytes(1000), write_content_size=False), "frame of 18446744073709551615 bytes"),
        (frame(bytes(1000), write_checksum=True), "checksum"),
        (with_window(23, 1000), "huge window"),
        (with_window(41, 1000), "cannot be decompressed|huge window"),
        (frame(bytes(1000)) + frame(bytes(1000)), "cannot be decompressed"),
        (frame(bytes(1000)) + frame(b""), "cannot be decompressed"),
        (frame(bytes(1000)) + b"\0", "cannot be decompressed"),
        (frame(bytes(1000))[:-1], "cannot be decompressed"),
        (frame(bytes(1000))[:6], "cannot be decompressed"),
        (b"\x50\x2a\x4d\x18" + struct.pack("<I", 4) + b"skip" + frame(bytes(1000)), "frame of 4 bytes"),
    ],
)
def test_wrong_frames_are_refused(data: bytes, match: str) -> None:
    refuse(thousand_bytes(data), match)


def test_a_frame_with_a_dictionary_is_refused() -> None:
    dictionary = zstandard.ZstdCompressionDict(bytes(range(256)), dict_type=zstandard.DICT_TYPE_RAWCONTENT)
    plain = bytearray(frame(bytes(1000), dict_data=dictionary))
    assert plain[4] == 0b01100000  # one segment, two bytes of content size, no dictionary id
    plain[4:5] = bytes([plain[4] | 1, 77])  # one byte of dictionary id
    refuse(thousand_bytes(bytes(plain)), "dictionary")


def test_bits_behind_the_last_code_are_refused() -> None:
    raw = all_raw(some_payload())
    assert 3 * 19 * 19 * 2 % 8 == 6
    raw.taps[0].data = raw.taps[0].data[:-1] + bytes([raw.taps[0].data[-1] | 0x40])
    refuse(raw.write(), "behind the last code")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_not_finite_are_refused(value: float) -> None:
    raw = all_raw(some_payload())
    count = 3 * 19 * 19
    planes = bytearray(raw.taps[2].data)
    planes[5::count] = struct.pack("<f", value)
    raw.taps[2].data = bytes(planes)
    refuse(raw.write(), "code -?(nan|inf) ")


def test_too_many_values_of_all_taps_are_refused() -> None:
    raw = RawMessage.read(some_message())
    data = frame(bytes(4 * 640_000))
    raw.taps, raw.tap_count = [RawTap(16, 200, 200, 32, 2, 1.0, len(data), b"", data) for _ in range(8)], 8
    refuse(raw.write(), "5120000 values")  # in small memory, though each tap alone would be right


@pytest.mark.parametrize("size", [0, 1, 3, 4, 7, 8, 20, 24, 25, 30, 41, 42, 100])
def test_messages_that_are_cut_short_are_refused(size: int) -> None:
    refuse(some_message()[:size], "not a message|version|checksum")
    refuse(with_checksum(some_message()[:size]), "not a message|version|cut short|bytes follow the header")


def test_a_message_with_more_behind_it_is_refused() -> None:
    refuse(some_message() + b"\0", "checksum")
    refuse(with_checksum(some_message()[:-4] + b"\0"), "bytes follow the header")
    refuse(with_checksum(some_message()), "bytes follow the header")


def test_a_damaged_message_is_refused() -> None:
    message = some_message()
    for position in range(4, len(message), 97):
        damaged = bytearray(message)
        damaged[position] ^= 0x10
        with pytest.raises(PayloadError, match="checksum"):
            decode(damaged)


def test_a_message_beyond_the_limit_is_refused_unread() -> None:
    oversize = memoryview(bytes(MESSAGE_LIMIT_BYTES + 1))
    refuse(oversize, "message of 4194305 bytes: allowed are 4194304")


def test_a_released_view_is_refused() -> None:
    view = memoryview(some_message())
    view.release()
    refuse(view, "a message is bytes")


@pytest.mark.parametrize("data", [None, "PFC", 5, [80, 70, 67], object(), np.array([None]), some_payload()])
def test_what_is_not_bytes_is_refused(data: Any) -> None:
    refuse(data, "not a message|a message is bytes")
    with pytest.raises(PayloadError):
        sizes(data)
