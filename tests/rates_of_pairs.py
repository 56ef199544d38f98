"""Figures of one set of pairs, for the tests of how they are computed."""

from __future__ import annotations

import numpy as np

from validation.protocol.figures import area, equal_error_rates, true_accept_rates, why_not_measured
from validation.protocol.verification import curves_of


def auc(distances: np.ndarray, same: np.ndarray) -> float:
    return float(area(curves_of(distances, same))[0])


def equal_error_rate(distances: np.ndarray, same: np.ndarray) -> float:
    return float(equal_error_rates(curves_of(distances, same))[0])


def tar_at_far(distances: np.ndarray, same: np.ndarray, far: float) -> float | None:
    curves = curves_of(distances, same)
    return None if why_not_measured(far, curves.impostor_pairs) else float(true_accept_rates(curves, far)[0])
