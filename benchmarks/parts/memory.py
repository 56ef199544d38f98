"""What a first training step adds to the resident memory, each side in a process of its own."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from benchmarks.harness import Sizes, note, threads
from benchmarks.parts.training import make_task, published_step, toolkit_step


def measure_memory(folder: Path, sizes: Sizes) -> dict[str, dict[str, float]]:
    """Bytes that a first training step adds to the resident memory of a fresh process, on either side."""
    theirs, ours = (fresh_process(side, folder, sizes) for side in ("baseline", "toolkit"))
    return {"training_step": {"baseline_bytes": theirs, "ours_bytes": ours, "ratio": ours / theirs}}


def fresh_process(side: str, folder: Path, sizes: Sizes) -> int:
    """`added_by_step` in a new interpreter.

    Raises:
        ValueError: the process was killed, as one is that wants more memory than there is.
    """
    note(f"memory: {side}, in a process of its own")
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        try:
            return pool.submit(added_by_step, side, folder, sizes).result()
        except BrokenProcessPool as error:
            raise ValueError(
                f"memory: the process of the {side} was killed; --batch-size {sizes.batch_size} with {sizes.server} "
                "may need more memory than there is: take a smaller one"
            ) from error


def added_by_step(side: str, folder: Path, sizes: Sizes) -> int:
    """Set up one side, and measure its first step."""
    with threads(sizes.threads):
        step = published_step(folder, sizes) if side == "baseline" else toolkit_step(make_task(folder, sizes))
        return added_bytes(step)


def added_bytes(work: Callable[[], Any]) -> int:
    """How far the peak of the resident memory during `work` lies above what was resident before."""
    with contextlib.suppress(OSError):  # no such file but on Linux: the peak before may then hide a part
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew from what is resident now
    before = peak_bytes()
    work()
    return peak_bytes() - before


def peak_bytes() -> int:
    """Highest resident memory of this process, bytes.

    Linux's getrusage starts a new program at the peak of the one that started it; /proc does not.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    import resource  # not on every system

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
