"""Time two sides that do the same work: how much of it, in turn, after their results were compared."""

from __future__ import annotations

import contextlib
import itertools
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import cv2
import torch

from torchkit.util.device import keep_freed_memory

MIN_SECONDS = 0.2
"""That a measurement lasts at least."""


class MismatchError(ValueError):
    """The two sides give different results: their times must not be compared."""


@dataclass(frozen=True)
class Sizes:
    """How much work each part does."""

    server: str = "ir_101"
    """The recogniser."""
    batch_size: int = 16
    """Images of a training step, and of the server's forward pass in `matmul`."""
    rows: int = 60
    """Rows of the validation set, two a pair."""
    pairs: int = 6000
    """Pairs of the 10-fold accuracy."""
    images: int = 16
    """Images obfuscated."""
    shuffle_batch: int = 64
    """Maps shuffled at once."""
    matrix_side: int = 4096
    """Of the matrix product."""
    amp: str = "none"
    """Precision of the toolkit's training step and validation: none or bf16."""
    threads: int = 1
    """Of torch and OpenCV."""


@dataclass(frozen=True)
class Comparison:
    """Two functions that do the same work, and what raises MismatchError when their results differ."""

    baseline: Callable[[], Any]
    ours: Callable[[], Any]
    check: Callable[[Any, Any], None]


def unchecked(theirs: Any, ours: Any) -> None:
    """For sides whose results are compared elsewhere, or are no results."""


Rounds = list[tuple[float, float]]
"""Seconds of baseline and toolkit, round by round."""


def note(text: str) -> None:
    """Progress, on stderr."""
    print(text, file=sys.stderr, flush=True)


def seconds_of(work: Callable[[], Any]) -> float:
    """Mean time of `work`, which is repeated until it has filled MIN_SECONDS: a single short one would be noise."""
    start = time.perf_counter()
    for runs in itertools.count(1):
        work()
        elapsed = time.perf_counter() - start
        if elapsed >= MIN_SECONDS:
            return elapsed / runs
    raise AssertionError


def alternate(name: str, pair: Comparison, rounds: int) -> Rounds:
    """Seconds of both sides in turn, after a warm-up whose results are compared.

    Raises:
        MismatchError: the results differ.
    """
    note(f"{name}: warm-up")
    pair.check(pair.baseline(), pair.ours())
    seconds: Rounds = []
    for number in range(1, rounds + 1):
        keep_freed_memory(False)  # the toolkit's commands ask for that, the published ones do not
        theirs = seconds_of(pair.baseline)
        keep_freed_memory()
        times = theirs, seconds_of(pair.ours)
        note(f"{name}: round {number}/{rounds}: baseline {times[0]:.4g} s, toolkit {times[1]:.4g} s")
        seconds.append(times)
    return seconds


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    """Run with `count` threads of torch and OpenCV."""
    before = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(count)
    cv2.setNumThreads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        cv2.setNumThreads(before[1])


def one_thread(work: Callable[[], Any]) -> Callable[[], Any]:
    def run() -> Any:
        with threads(1):
            return work()

    return run


def require_close(name: str, error: float, limit: float) -> None:
    if not error <= limit:
        raise MismatchError(
            f"{name} of toolkit and baseline differ by {error:.3g}, allowed is {limit:g}: one of the two is wrong, "
            "so nothing is timed; `pytest tests/test_benchmarks.py` tells more"
        )
