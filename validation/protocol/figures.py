"""Figures of merit of same-or-different decisions on pairs. One table, `FIGURES`.

A figure is computed for R draws of the pairs at once: for the pairs themselves (R = 1) it is the result, for the
bootstrap's resamples the spread of its values gives the interval. It is computed either from the results of the LFW
protocol by fold (`Folds`) or from the ROC (`Curves`). Tables, files, pages and comparisons follow the table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np

REPORTED_FARS = {"1e-1": 1e-1, "1e-2": 1e-2, "1e-3": 1e-3, "1e-4": 1e-4}
"""The false accept rates at which a TAR is reported, by their names in results."""

FALSE_MATCHES_NEEDED = 30
"""The rule of 30 (Doddington et al., 2000; ISO/IEC 19795-1): with 30 errors seen, the true error rate is with 90 %
confidence within 30 % of the measured one. So a FAR counts as measured from 30 / FAR impostor pairs on."""


@dataclass(frozen=True, eq=False)
class Folds:
    """The results of the LFW protocol on R draws of the pairs.

    Attributes:
        accuracies: (R, folds) on each fold, 0 to 1.
        thresholds: (R, folds) chosen on the other folds, squared L2 distance.
    """

    accuracies: np.ndarray
    thresholds: np.ndarray


@dataclass(frozen=True, eq=False)
class Curves:
    """The ROCs of R draws of the pairs: a point for each decision that some threshold makes, from (0, 0) to (1, 1).

    Attributes:
        true_matches: (R, k) int64, genuine pairs that match, rising.
        false_matches: (R, k) int64, impostor pairs that match.
        genuine_pairs: of each draw.
        impostor_pairs: of each draw.
    """

    true_matches: np.ndarray
    false_matches: np.ndarray
    genuine_pairs: int
    impostor_pairs: int

    @cached_property
    def tmr(self) -> np.ndarray:
        """(R, k) true match rates."""
        return self.true_matches / self.genuine_pairs

    @cached_property
    def fmr(self) -> np.ndarray:
        """(R, k) false match rates."""
        return self.false_matches / self.impostor_pairs


@dataclass(frozen=True)
class Figure:
    """A row of the table."""

    name: str
    """Its name in results.json."""
    title: str
    """Title of its column."""
    basis: type[Folds] | type[Curves]
    """What it is computed from."""
    compute: Callable[[Any], np.ndarray]
    """`Folds` or `Curves` of R draws -> (R,)."""
    unit: str = "%"
    """"%" for rates from 0 to 1, which are shown in per cent; else the unit that follows the title."""
    has_interval: bool = True
    """Whether it is resampled."""
    has_column: bool = True
    """Whether tables show it."""
    group: str | None = None
    """Key under which results.json groups figures of a kind by name."""
    why_not_measured: Callable[[int], str | None] = lambda impostor_pairs: None
    """Number of impostor pairs -> the reason why they are too few, or None."""

    @property
    def key(self) -> str:
        """Its name in results.csv, and wherever there are no groups."""
        return self.name if self.group is None else f"{self.group}_{self.name}"

    @property
    def column(self) -> str:
        """Head of its column, with the unit."""
        return f"{self.title} {self.unit}".strip()

    def show(self, value: float | None) -> str:
        """Format the value; "-" for None."""
        if value is None:
            return "-"
        return f"{100 * value:.2f}" if self.unit == "%" else f"{value:.3f}"

    def find(self, row: Mapping[str, Any], suffix: str = "") -> Any:
        """Look up its value in a row of results.json or, by suffix, its "_interval" or "_missing"; None if absent."""
        if self.group is None:
            return row.get(f"{self.name}{suffix}")
        return (row.get(f"{self.group}{suffix}") or {}).get(self.name)


def _mean_accuracy(folds: Folds) -> np.ndarray:
    return folds.accuracies.mean(axis=1)


def _accuracy_deviation(folds: Folds) -> np.ndarray:
    return folds.accuracies.std(axis=1)


def _mean_threshold(folds: Folds) -> np.ndarray:
    return folds.thresholds.mean(axis=1)


def area(curves: Curves) -> np.ndarray:
    """(R,) areas under the ROCs: the chance that a genuine pair is nearer than an impostor pair, ties by half."""
    return np.trapezoid(curves.tmr, curves.fmr, axis=1)


def equal_error_rates(curves: Curves) -> np.ndarray:
    """(R,) rates at which FMR equals FNMR, on straight lines between the points of the ROC."""
    fmr = curves.fmr
    gap = fmr + curves.tmr - 1  # FMR - FNMR: rises from -1 to 1
    after = np.argmax(gap >= 0, axis=1)
    low, high = _at(gap, after - 1), _at(gap, after)
    low_fmr, high_fmr = _at(fmr, after - 1), _at(fmr, after)
    return low_fmr - low / (high - low) * (high_fmr - low_fmr)


def true_accept_rates(curves: Curves, far: float) -> np.ndarray:
    """(R,) the highest TARs of thresholds whose false accept rate is at most `far`."""
    allowed = allowed_false_matches(far, curves.impostor_pairs)
    last = (curves.false_matches <= allowed).sum(axis=1) - 1
    return _at(curves.true_matches, last) / curves.genuine_pairs


def _at(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """rows[r, columns[r]] for each r."""
    return np.take_along_axis(rows, columns[:, None], axis=1)[:, 0]


def allowed_false_matches(far: float, impostor_pairs: int) -> int:
    """Count the impostor pairs that may match at a false accept rate of at most `far`."""
    return int(np.floor(far * impostor_pairs + 1e-9))  # 0.001 * 3000 may come out just below 3


def why_not_measured(far: float, impostor_pairs: int) -> str | None:
    """Explain why this number of impostor pairs does not measure this false accept rate; None if it does.

    The rule of 30: see `FALSE_MATCHES_NEEDED`.
    """
    if allowed_false_matches(far, impostor_pairs) >= FALSE_MATCHES_NEEDED:
        return None
    needed = int(np.ceil(FALSE_MATCHES_NEEDED / far - 1e-9))
    return f"{impostor_pairs:,} impostor pairs, {needed:,} needed"


def measured_from(impostor_pairs: int) -> float:
    """Return the least false match rate that this number of impostor pairs measures (rule of 30); above 1: none."""
    return FALSE_MATCHES_NEEDED / impostor_pairs


FIGURES = {
    figure.key: figure
    for figure in (
        Figure("accuracy", "accuracy", Folds, _mean_accuracy),
        Figure("accuracy_std", "deviation", Folds, _accuracy_deviation, has_interval=False, has_column=False),
        Figure("auc", "AUC", Curves, area),
        Figure("eer", "EER", Curves, equal_error_rates),
        *(
            Figure(
                name, f"TAR@FAR={name}", Curves, partial(true_accept_rates, far=far), group="tar_at_far",
                why_not_measured=partial(why_not_measured, far),
            )
            for name, far in REPORTED_FARS.items()
        ),
        Figure("threshold", "threshold", Folds, _mean_threshold, unit="", has_interval=False),
    )
}  # fmt: skip
"""The figures that are reported, by key, in the order of tables."""


def shown_figures() -> list[Figure]:
    """List the figures that have a column."""
    return [figure for figure in FIGURES.values() if figure.has_column]


def nested(values: Mapping[str, Any], suffix: str = "") -> dict[str, Any]:
    """Values by key as results.json holds them: under their names with `suffix`, those of a group in a dictionary."""
    out: dict[str, Any] = {}
    for key, value in values.items():
        figure = FIGURES[key]
        if figure.group is None:
            out[f"{figure.name}{suffix}"] = value
        else:
            out.setdefault(f"{figure.group}{suffix}", {})[figure.name] = value
    return out
