"""Entropy coding of symbols whose frequencies both sides know: the range coder of the package constriction.

A range coder (Martin, 1979) spends about log2(total / frequency) bits on a symbol and a few bytes on the end of a
stream. Its models use only float64 sums and products of whole numbers, so that every machine decodes alike.
"""

from __future__ import annotations

import constriction
import numpy as np

from torchkit.payload.limits import PayloadError

_MODEL = constriction.stream.model.Categorical(perfect=False)
_WORD_BYTES = 4


def encode_symbols(symbols: np.ndarray, frequencies: np.ndarray) -> bytes:
    """Encode symbols as a stream without its trailing zero bytes.

    Args:
        symbols: (K, N) int32, each below S.
        frequencies: (K, N, S) or (K, 1, S), whole numbers of at least 1: of each symbol's values, or of each row's.
    """
    encoder = constriction.stream.queue.RangeEncoder()
    for row, of_row in zip(symbols, frequencies, strict=True):
        encoder.encode(row, _MODEL, _for_each(of_row, len(row)))
    return encoder.get_compressed().astype(">u4").tobytes().rstrip(b"\0")


def decode_symbols(stream: bytes, count: int, frequencies: np.ndarray) -> np.ndarray:
    """Undo `encode_symbols`, for a stream of unknown origin; the work depends on the arguments, not on the stream.

    Args:
        stream: of any length.
        count: N.
        frequencies: as in `encode_symbols`.

    Returns:
        (K, N) int32.

    Raises:
        PayloadError: a stream that `encode_symbols` would not write.
    """
    words = np.frombuffer(stream + bytes(-len(stream) % _WORD_BYTES), ">u4").astype(np.uint32)
    decoder = constriction.stream.queue.RangeDecoder(words)  # reads zeros where the words end
    symbols = np.empty((len(frequencies), count), np.int32)
    try:
        for row, of_row in zip(symbols, frequencies, strict=True):
            row[:] = decoder.decode(_MODEL, _for_each(of_row, count))
    except AssertionError as error:  # constriction's error for a stream that no encoder writes
        raise PayloadError(f"features cannot be decoded: {error}") from error
    if encode_symbols(symbols, frequencies) != stream:
        raise PayloadError("features cannot be decoded: the stream was damaged, or written with other frequencies")
    return symbols


def _for_each(frequencies: np.ndarray, count: int) -> np.ndarray:
    """(count, S) float64, from `count` rows or from one."""
    return np.ascontiguousarray(np.broadcast_to(frequencies, (count, frequencies.shape[1])), np.float64)
