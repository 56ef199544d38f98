"""Process many files in several processes, with a progress bar."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

import cv2
from tqdm import tqdm

from torchkit.util.cli import CommandParser, integer_from

ITEMS_A_TASK = 32
PARENT_CHECK_S = 1.0
T = TypeVar("T")
R = TypeVar("R")


def add_jobs_argument(parser: CommandParser) -> None:
    count = os.cpu_count() or 1
    parser.option("jobs", type=integer_from(1), default=count, metavar="N", help="processes; all cores unless given")


def parallel_map(
    work: Callable[[T], R], items: Sequence[T], jobs: int, label: str, unit: str = " images"
) -> Iterator[R]:
    """Yield the results of `work` on `items`, in order.

    Args:
        work: can be pickled, as its arguments and results.
        items: what to work on.
        jobs: number of processes, at least 1; 1 works in this one.
        label: of the progress bar.
        unit: of the progress bar.

    Raises:
        OSError: a process was killed.
        whatever `work` raises, of the first item at which it does; what has not begun is not done then.
    """
    assert jobs >= 1, jobs
    alone = jobs == 1 or len(items) <= ITEMS_A_TASK
    with tqdm(total=len(items), desc=label, unit=unit, dynamic_ncols=True) as bar, _one_opencv_thread():
        for result in map(work, items) if alone else _in_processes(work, items, jobs):
            yield result
            bar.update()


@contextlib.contextmanager
def _one_opencv_thread() -> Iterator[None]:
    """Run without OpenCV's own threads: a forked process lacks them, and hangs when it joins them."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(threads)


def _in_processes(work: Callable[[T], R], items: Sequence[T], jobs: int) -> Iterator[R]:
    pool = ProcessPoolExecutor(jobs, initializer=_start_worker)
    try:
        yield from pool.map(work, items, chunksize=ITEMS_A_TASK)
    except BrokenProcessPool:
        raise OSError(
            "a working process was killed; is memory short? Lower --jobs and start again: what is done is kept"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker() -> None:
    """Use one thread, leave Ctrl-C to the parent, and end with the parent."""
    cv2.setNumThreads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(PARENT_CHECK_S)
    os._exit(1)
