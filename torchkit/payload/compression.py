"""Entropy coding of packed codes: one Zstandard frame (RFC 8878) that states the size of its content."""

from __future__ import annotations

import zstandard

from torchkit.payload.limits import MAX_TAP_VALUES, PayloadError

_MAX_CONTENT_BYTES = 4 * MAX_TAP_VALUES
# Packed codes repeat little, but their bytes are not equally frequent: zstd's Huffman code is what compresses them.
# So zstd is told to search for matches as little as it can. On 25,088 2-bit codes with 60 / 75 / 90 % zeros this gives
# 5,009 / 3,874 / 2,283 bytes in under 20 us; level 1 gives 5,009 / 3,959 / 2,534 and level 9 more, in 60 to 150 us.
_PARAMETERS = zstandard.ZstdCompressionParameters(
    strategy=zstandard.STRATEGY_FAST,
    min_match=7,
    hash_log=6,
    window_log=_MAX_CONTENT_BYTES.bit_length() - 1,
    write_content_size=True,
    write_checksum=False,
    write_dict_id=False,
)


def compress(content: bytes) -> bytes:
    """Compress `content` into one frame, which may be longer than the content."""
    return zstandard.ZstdCompressor(compression_params=_PARAMETERS).compress(content)


def decompress(frame: bytes, content_bytes: int) -> bytes:
    """Read one frame of unknown origin.

    Args:
        frame: the frame and nothing else.
        content_bytes: number of bytes that it must hold, at least 1.

    Raises:
        PayloadError: damaged, followed by other bytes, or a frame that states another size.
    """
    try:
        # zstandard allocates the size that the frame states, whatever `max_output_size` is: so it is checked first.
        stated = zstandard.get_frame_parameters(frame)
        if stated.content_size != content_bytes:
            raise PayloadError(f"a zstd frame of {stated.content_size} bytes: expected {content_bytes}")
        if stated.window_size > _MAX_CONTENT_BYTES or stated.dict_id or stated.has_checksum:
            raise PayloadError("a zstd frame with a dictionary, a checksum or a huge window: allowed is none of them")
        decompressor = zstandard.ZstdDecompressor(max_window_size=_MAX_CONTENT_BYTES)
        return decompressor.decompress(frame, max_output_size=content_bytes, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise PayloadError(f"features cannot be decompressed: {error}") from error
