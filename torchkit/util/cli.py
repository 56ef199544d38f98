"""What every command shares: errors a user can mend become one clear message and exit code 2."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable

USER_ERROR_EXIT = 2


def run_command(main: Callable[[], None], show_traceback: bool) -> None:
    """Run `main`; turn a ValueError or OSError into "error: ..." on stderr and exit code 2.

    Args:
        main: the command.
        show_traceback: let Python show where the error arose instead.
    """
    try:
        main()
    except (ValueError, OSError) as error:
        if show_traceback:
            raise
        print(f"error: {message_of(error)}", file=sys.stderr)
        raise SystemExit(USER_ERROR_EXIT) from None
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        raise SystemExit(130) from None


def message_of(error: BaseException) -> str:
    """The error's message; of one that arose in a data-loader worker the original's, without its traceback."""
    text = str(error)
    if "Original Traceback" not in text:
        return text or type(error).__name__
    last = re.split(r"\n(?=\w[\w.]*(?:Error|Exception): )", text)[-1]
    return last.partition(": ")[2].strip()
