"""Errors in data: raised at once when data are loaded, collected when they are verified."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

Report = Callable[[Exception], None]
"""Told of an error that concerns one line, row or file, after which the others can still be looked at."""
T = TypeVar("T")


def stop(error: Exception) -> None:
    """The `Report` of loading: the first error ends it."""
    raise error


def attempt(report: Report, work: Callable[[], T]) -> T | None:
    """What `work` returns, or None after its error was reported."""
    try:
        return work()
    except (ValueError, OSError) as error:
        report(error)
        return None
