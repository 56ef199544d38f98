"""Choose the device and its precision, and keep freed memory on CPUs."""

from __future__ import annotations

import ctypes
import sys
from contextlib import AbstractContextManager, suppress
from typing import Any

import torch

AMP_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}

# glibc's mallopt (malloc.h)
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
KEEPING_BYTES = 1 << 30
USUAL_BYTES = 32 << 20
"""The threshold that glibc itself reaches in a program that works with large blocks."""


def pick_device(name: str) -> torch.device:
    """The device called `name`; "auto": CUDA if there is one.

    Raises:
        ValueError: no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"device {name!r} cannot be used: {reason}. Allowed: auto, cpu, cuda, cuda:N") from error
    return device


def computes_bf16(device: torch.device) -> bool:
    """Whether the device has instructions for bfloat16; elsewhere it is slower than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.backends.mkldnn.is_available() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def amp_dtype(amp: bool | str, device: torch.device) -> torch.dtype | None:
    """Return the type of mixed precision; None for False, "none", and "auto" on a device without bfloat16."""
    if amp == "auto":
        return torch.bfloat16 if computes_bf16(device) else None
    return AMP_DTYPES.get(str(amp))


def autocast(dtype: torch.dtype | None, device: torch.device) -> AbstractContextManager[Any]:
    """Return the context of mixed precision with `dtype`; None: full precision."""
    return torch.autocast(device.type, dtype, enabled=dtype is not None)


def keep_freed_memory(keep: bool = True) -> None:
    """Let glibc keep freed memory instead of returning it to the system; with `keep` False, restore its default.

    Every step allocates the same large maps; otherwise the kernel clears their pages again each time, which takes a
    fifth of a training step on a CPU. Does nothing with other C libraries.
    """
    if sys.platform == "linux":
        with suppress(AttributeError):  # no glibc
            libc = ctypes.CDLL(None)
            threshold_bytes = KEEPING_BYTES if keep else USUAL_BYTES
            libc.mallopt(M_MMAP_THRESHOLD, threshold_bytes)
            libc.mallopt(M_TRIM_THRESHOLD, 2 * threshold_bytes - 1)
            if not keep:
                libc.malloc_trim(0)
