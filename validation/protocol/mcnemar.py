"""McNemar's test (1947): do two runs decide the same pairs correctly equally often?

Only pairs that one run decides correctly and the other wrongly count. If the runs are equally good, each such pair is
as likely to favour one as the other: the number that favours the first is binomial with 1/2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

EXACT_UP_TO = 1000
"""Discordant pairs up to which the binomial is summed; beyond, its normal approximation is as good as exact."""


@dataclass(frozen=True)
class Discordance:
    """Where two runs disagree.

    Attributes:
        only_first: pairs that only the first decides rightly.
        only_second: pairs that only the second decides rightly.
        p_value: two-sided; 1 where they never disagree.
    """

    only_first: int
    only_second: int
    p_value: float


def mcnemar(first: np.ndarray, second: np.ndarray) -> Discordance:
    """Compare the decisions of two runs on the same pairs.

    Args:
        first: (n,) bool, whether the first run decides pair k rightly.
        second: (n,) bool, the same of the second.

    Raises:
        ValueError: different shapes or no bools.
    """
    if first.shape != second.shape or first.ndim != 1 or (first.dtype, second.dtype) != (bool, bool):
        raise ValueError(
            f"decisions are {first.shape} {first.dtype} and {second.shape} {second.dtype}, expected (n,) bool twice"
        )
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    return Discordance(only_first, only_second, two_sided_p(only_first, only_second))


def two_sided_p(only_first: int, only_second: int) -> float:
    """Probability of a split at least as uneven: exact binomial, for many pairs chi-squared with Yates' correction."""
    total, fewer = only_first + only_second, min(only_first, only_second)
    if total <= EXACT_UP_TO:
        tail = sum(math.comb(total, count) for count in range(fewer + 1))
        return min(1.0, 2 * tail / 2**total)
    chi_squared = max(0, abs(only_first - only_second) - 1) ** 2 / total
    return math.erfc(math.sqrt(chi_squared / 2))
