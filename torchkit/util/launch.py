"""The processes of a command that torchrun started: their group, and one message for an error.

An error ends a process at once, without leaving the group in order: the other processes would wait for it. They notice
that it is gone (gloo) or are stopped by torchrun (NCCL), and print nothing themselves.
"""

from __future__ import annotations

import hashlib
import os
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta

import torch
import torch.distributed as dist

from torchkit.util.cli import USER_ERROR_EXIT, can_be_mended, message_of, run_command
from torchkit.util.device import pick_device

LAUNCH_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
COLLECTIVE_TIMEOUT = timedelta(minutes=10)
"""How long processes wait for each other, e.g. while the main one writes files and computes figures."""
SAME_ERROR_SECONDS = 2.0
"""How long a process waits for the others to meet the same error: all of them read the same configuration."""
TELLING_TIMEOUT = timedelta(seconds=10)
LOST = (
    "another process does not answer any more; torchrun's summary says which one ended, and how. A training goes on "
    "from its last checkpoint with --resume"
)
STOPPED_SECONDS = 5.0
"""How long a process that lost another waits for torchrun to stop it, so that torchrun's summary names the other."""


def launched() -> int:
    """Return the number of processes that torchrun started; 1 without torchrun.

    Raises:
        ValueError: the environment describes several processes, but incompletely.
    """
    count = os.environ.get("WORLD_SIZE", "1")
    if count == "1":
        return 1
    missing = [name for name in LAUNCH_VARIABLES if not os.environ.get(name, "")]
    if missing or not count.isdecimal():
        raise ValueError(
            f"WORLD_SIZE = {count!r} asks for several processes, but {', '.join(missing) or 'it is no number'}"
            f"{' is not set' if missing else ''}; start them with torchrun --nproc-per-node=N, or unset WORLD_SIZE"
        )
    return int(count)


def start_processes(device_name: str) -> None:
    """Join the group of the processes that torchrun started: NCCL with a GPU each, else gloo. A single one needs none.

    Raises:
        ValueError: a device that each process cannot have for itself.
    """
    if launched() == 1:
        return
    device = pick_device(device_name)
    if device.type == "cuda":
        torch.cuda.set_device(own_gpu(device))
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=COLLECTIVE_TIMEOUT)


def own_gpu(device: torch.device) -> int:
    """Return the number of this process's GPU: its local rank.

    Raises:
        ValueError: one GPU was asked for by its number, or there are fewer than processes.
    """
    local_rank, available = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
    if device.index is not None:
        raise ValueError(f"device {device} with {launched()} processes: each takes a GPU of its own; give cuda or auto")
    if local_rank >= available:
        raise ValueError(
            f"LOCAL_RANK = {local_rank}, but there are {available} GPUs; lower --nproc-per-node, or take device cpu"
        )
    return local_rank


def run_processes(main: Callable[[], None], show_traceback: bool) -> None:
    """Like `run_command`, for a command that may run in several processes: an error of all of them is printed once.

    Args:
        main: the command.
        show_traceback: print the traceback, also of an error that the user can fix.
    """
    if os.environ.get("WORLD_SIZE", "1") == "1":
        run_command(main, show_traceback)
        return
    board: ErrorBoard | None = None
    try:
        launched()
        board = ErrorBoard.connect()
        main()
        if dist.is_initialized():
            dist.destroy_process_group()
    except (Exception, KeyboardInterrupt) as error:
        with suppress(Exception):  # a store that is gone must neither hide the error nor block the process
            _report(error, board, show_traceback)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(_exit_code(error))  # a regular exit could wait for processes that wait for this one


def _report(error: BaseException, board: ErrorBoard | None, show_traceback: bool) -> None:
    text = _described(error, show_traceback)
    if board is None:
        print(f"error: rank {os.environ.get('RANK', '?')}: {text}", file=sys.stderr)
    elif not _lost_another(error):
        board.tell(text, SAME_ERROR_SECONDS)
    else:
        if not board.told():
            board.tell(LOST if not show_traceback else f"{LOST}\n{text}", wait_seconds=0)
        time.sleep(STOPPED_SECONDS)


def _described(error: BaseException, show_traceback: bool) -> str:
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    if can_be_mended_by_user(error) and not show_traceback:
        return message_of(error)
    return "".join(traceback.format_exception(error)).rstrip()


def can_be_mended_by_user(error: BaseException) -> bool:
    """Whether `run_command` would print a message instead of a traceback."""
    return isinstance(error, ValueError | OSError | RuntimeError) and can_be_mended(error)


def _lost_another(error: BaseException) -> bool:
    """Whether the error comes from a collective operation that lost another process."""
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))


def _exit_code(error: BaseException) -> int:
    if isinstance(error, KeyboardInterrupt):
        return 130
    return USER_ERROR_EXIT if can_be_mended_by_user(error) else 1


class ErrorBoard:
    """Where the processes of a run record errors, so that each is printed once.

    Args:
        store: shared by all processes.
        rank: of this process.
        count: number of processes.
    """

    def __init__(self, store: dist.Store, rank: int, count: int) -> None:
        self.store, self.rank, self.count = dist.PrefixStore("errors", store), rank, count

    @classmethod
    def connect(cls) -> ErrorBoard:
        """Connect to the board of the run that torchrun's environment variables describe."""
        return cls(*next(dist.rendezvous("env://", timeout=COLLECTIVE_TIMEOUT)))

    def told(self) -> bool:
        """Whether a process has recorded an error."""
        return self.store.add("all", 0) > 0

    def tell(self, text: str, wait_seconds: float) -> None:
        """Print the error unless another process does; with the rank, unless all processes meet it within that time."""
        key = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
        place = self.store.add(key, 1)
        self.store.add("all", 1)
        if place > 1:  # torchrun stops the others as soon as one ends: let the first one finish
            self.store.wait([f"{key}/told"], TELLING_TIMEOUT)
            return
        who = "" if self._all_met(key, wait_seconds) else f"rank {self.rank} of {self.count}: "
        print(f"error: {who}{text}", file=sys.stderr, flush=True)
        self.store.set(f"{key}/told", "")

    def _all_met(self, key: str, wait_seconds: float) -> bool:
        deadline = time.monotonic() + wait_seconds
        while (met := self.store.add(key, 0)) < self.count and time.monotonic() < deadline:
            time.sleep(0.05)
        return met == self.count
