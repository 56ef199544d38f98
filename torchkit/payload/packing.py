"""Pack codes into bytes and unpack them, without compression.

Codes of 1, 2, 4 and 8 bits are shifted to begin at zero (offset binary) and stand one after the other, the first in
the low bits of a byte; unused bits of the last byte are zero. Float32 values are split into four planes, the lowest
bytes of all values first: the planes of signs and exponents compress, those of mantissas do not.
"""

from __future__ import annotations

import numpy as np

from torchkit.payload.limits import PayloadError
from torchkit.payload.message import CODE_RANGES, FLOAT_BITS


def packed_bytes(count: int, bits: int) -> int:
    """Number of bytes of `count` packed values."""
    return (count * bits + 7) // 8


def pack(codes: np.ndarray, bits: int) -> bytes:
    """Codes of any shape, int8 within the range of `bits` or float32 -> bytes, in C order."""
    if bits == FLOAT_BITS:
        return codes.astype("<f4").reshape(-1, 1).view(np.uint8).T.tobytes()
    return _pack_symbols(symbols_of(codes.ravel(), bits), bits)


def unpack(data: bytes, count: int, bits: int) -> np.ndarray:
    """Undo `pack`.

    Args:
        data: `packed_bytes(count, bits)` bytes.
        count: number of values in them.
        bits: 1, 2, 4, 8 or 32.

    Returns:
        (count,) int8, or float32 for 32 bits.

    Raises:
        PayloadError: a bit after the last code is set.
    """
    assert len(data) == packed_bytes(count, bits)
    packed = np.frombuffer(data, np.uint8)
    if bits == FLOAT_BITS:
        return np.ascontiguousarray(packed.reshape(4, count).T).view("<f4").ravel().astype(np.float32, copy=False)
    symbols = _unpack_symbols(packed, bits)
    if symbols[count:].any():
        raise PayloadError("bits behind the last code are set")
    return codes_of(symbols[:count], bits)


def symbols_of(codes: np.ndarray, bits: int) -> np.ndarray:
    """int8 codes of any shape -> uint8 from 0 to 2**bits - 1."""
    if bits == 1:
        return (codes > 0).astype(np.uint8)
    return codes.view(np.uint8) - np.uint8(CODE_RANGES[bits][0] & 0xFF)  # modulo 256


def codes_of(symbols: np.ndarray, bits: int) -> np.ndarray:
    """Undo `symbols_of`."""
    if bits == 1:
        return symbols.view(np.int8) * np.int8(2) - np.int8(1)
    return (symbols + np.uint8(CODE_RANGES[bits][0] & 0xFF)).view(np.int8)


def _pack_symbols(symbols: np.ndarray, bits: int) -> bytes:
    per_byte = 8 // bits
    packed = np.zeros(packed_bytes(symbols.size, bits), np.uint8)
    for slot in range(per_byte):
        shifted = symbols[slot::per_byte] << (slot * bits)
        packed[: shifted.size] |= shifted
    return packed.tobytes()


def _unpack_symbols(packed: np.ndarray, bits: int) -> np.ndarray:
    """Unpack all symbols of the bytes, including those of the padding."""
    per_byte = 8 // bits
    mask = 2**bits - 1
    symbols = np.empty((packed.size, per_byte), np.uint8)
    for slot in range(per_byte):
        symbols[:, slot] = packed >> (slot * bits) & mask
    return symbols.ravel()
