"""What every command shares: errors a user can mend become one clear message and exit code 2."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable

USER_ERROR_EXIT = 2


def run_command(main: Callable[[], None], show_traceback: bool) -> None:
    """Run `main`; turn an error that a user can mend into "error: ..." on stderr and exit code 2.

    Args:
        main: the command.
        show_traceback: let Python show where the error arose instead.
    """
    try:
        main()
    except (ValueError, OSError, RuntimeError) as error:
        if show_traceback or not can_be_mended(error):
            raise
        print(f"error: {message_of(error)}", file=sys.stderr)
        raise SystemExit(USER_ERROR_EXIT) from None
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        raise SystemExit(130) from None


def can_be_mended(error: Exception) -> bool:
    """Whether the user can do something about it: of PyTorch's RuntimeErrors, about a worker that was killed."""
    return not isinstance(error, RuntimeError) or "DataLoader worker" in str(error)


def message_of(error: BaseException) -> str:
    """The error's message; of one that arose in a data-loader worker the original's, without its traceback."""
    text = str(error)
    if isinstance(error, RuntimeError) and "DataLoader worker" in text:
        return f"{text.splitlines()[0]} Is memory short? Lower NUM_WORKERS (training) or --num-workers (validation)."
    if "Original Traceback" not in text:
        return text or type(error).__name__
    last = re.split(r"\n(?=\w[\w.]*(?:Error|Exception): )", text)[-1]
    return last.partition(": ")[2].strip()
