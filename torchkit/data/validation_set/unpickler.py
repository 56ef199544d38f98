"""An unpickler that builds nothing but lists, tuples, bytes, text, bools, ints and None."""

from __future__ import annotations

import io
import pickle
import pickletools
from collections.abc import Callable
from typing import Any

OPCODES = (
    pickle.PROTO, pickle.FRAME, pickle.STOP, pickle.MARK, pickle.POP, pickle.POP_MARK,
    pickle.NONE, pickle.NEWTRUE, pickle.NEWFALSE, pickle.INT, pickle.BININT, pickle.BININT1, pickle.BININT2,
    pickle.LONG, pickle.LONG1, pickle.LONG4,
    pickle.STRING, pickle.BINSTRING, pickle.SHORT_BINSTRING, pickle.BINBYTES, pickle.SHORT_BINBYTES, pickle.BINBYTES8,
    pickle.UNICODE, pickle.BINUNICODE, pickle.SHORT_BINUNICODE, pickle.BINUNICODE8,
    pickle.EMPTY_LIST, pickle.LIST, pickle.APPEND, pickle.APPENDS,
    pickle.EMPTY_TUPLE, pickle.TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3,
    pickle.GET, pickle.BINGET, pickle.LONG_BINGET, pickle.PUT, pickle.BINPUT, pickle.LONG_BINPUT, pickle.MEMOIZE,
    pickle.GLOBAL, pickle.STACK_GLOBAL, pickle.REDUCE, pickle.BUILD,
)  # fmt: skip
"""All that a set needs. Excluded are, among others, those that make an object of a class, look up what another module
registered, or fill a buffer of a length that a few bytes state."""


class _Dispatch(dict[int, Callable[..., None]]):
    def __missing__(self, code: int) -> Callable[..., None]:
        name = next((opcode.name for opcode in pickletools.opcodes if ord(opcode.code) == code), f"0x{code:02x}")
        raise ValueError(f"it uses the opcode {name}, a set holds only lists, tuples, bytes, bools, ints")


class DataUnpickler(pickle._Unpickler):
    """Unpickle data. No name in a file is ever looked up, so nothing can run.

    A few names are needed for bytes in the older pickle protocols and for images that are uint8 arrays (the results of
    `cv2.imencode`); each gives a new, inert stand-in, so that files cannot influence each other.

    It is the unpickler written in Python, since the one in C fills a table as long as the largest memo number in the
    file, so that a few bytes there take gigabytes.
    """

    dispatch = _Dispatch({code[0]: pickle._Unpickler.dispatch[code[0]] for code in OPCODES})

    def __init__(self, data: bytes) -> None:
        super().__init__(io.BytesIO(data), encoding="bytes")
        self._budget = _Budget(len(data))

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("_codecs", "encode"):
            return _EncodeStandIn(self._budget)
        stand_in = _STAND_INS.get((module, name))
        if stand_in is None:
            raise ValueError(
                f"it asks for the global {module}.{name}, a set holds only lists, tuples, bytes, bools, ints"
            )
        return stand_in()


class _Budget:
    """Number of characters that may still be encoded: each is in the file once."""

    __slots__ = ("_left",)

    def __init__(self, characters: int) -> None:
        self._left = characters

    def spend(self, characters: int) -> None:
        self._left -= characters
        if self._left < 0:
            raise ValueError("it encodes the same text again and again, which takes memory without end")


class _EncodeStandIn:
    """For `_codecs.encode`: Python 3 writes bytes in protocol 2 and below as `encode(text, "latin1")`."""

    __slots__ = ("_budget",)

    def __init__(self, budget: _Budget) -> None:
        self._budget = budget

    def __call__(self, text: str, encoding: str) -> bytes:
        if encoding != "latin1":
            raise ValueError(f"it encodes text as {encoding!r}, expected 'latin1'")
        self._budget.spend(len(text))
        return text.encode("latin1")


class ByteArray:
    """For a uint8 array: keeps the state that the pickle gives it."""

    __slots__ = ("_state",)

    def __init__(self) -> None:
        self._state: Any = None

    def __setstate__(self, state: Any) -> None:
        self._state = state

    def to_bytes(self) -> bytes | None:
        """Return the array's bytes; None if it is not a uint8 array of shape (n,) or (n, 1)."""
        match self._state:
            case (int(), (int(length),) | (int(length), 1), _DtypeStandIn(is_uint8=True), _, bytes(data)):
                return data if len(data) == length else None
        return None


class _ReconstructStandIn:
    """For `numpy.core.multiarray._reconstruct(numpy.ndarray, (0,), b"b")`: an array still without state."""

    __slots__ = ()

    def __call__(self, *_: Any) -> ByteArray:
        return ByteArray()


class _NdarrayStandIn:
    """For `numpy.ndarray`, which is only passed to `_reconstruct`."""

    __slots__ = ()


class _DtypeStandIn:
    """For `numpy.dtype`, both the function and what it returns."""

    __slots__ = ("is_uint8",)

    def __init__(self, code: Any = None) -> None:
        self.is_uint8 = code in ("u1", b"u1")

    def __call__(self, code: Any, *_: Any) -> _DtypeStandIn:
        return _DtypeStandIn(code)

    def __setstate__(self, state: Any) -> None:
        """A one-byte type has no byte order or fields worth keeping."""


_STAND_INS: dict[tuple[str, str], type] = {
    ("numpy", "dtype"): _DtypeStandIn,
    ("numpy", "ndarray"): _NdarrayStandIn,
    ("numpy.core.multiarray", "_reconstruct"): _ReconstructStandIn,
    ("numpy._core.multiarray", "_reconstruct"): _ReconstructStandIn,
}
