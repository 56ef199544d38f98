"""Report errors in data: raised when data are loaded, collected when they are verified."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

Report = Callable[[Exception], None]
"""Called with an error of one line, row or file, after which the others can still be checked."""
T = TypeVar("T")


def stop(error: Exception) -> None:
    """Raise the error: the `Report` of loading."""
    raise error


def attempt(report: Report, work: Callable[[], T]) -> T | None:
    """Return the result of `work`, or None after reporting its error."""
    try:
        return work()
    except (ValueError, OSError) as error:
        report(error)
        return None
