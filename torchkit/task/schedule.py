"""The learning rate as a pure function of the step, so that a resumed run needs no state of a schedule."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Schedule:
    """Step or cosine decay with linear warm-up.

    Args:
        kind: "step": rates[i] from epoch stages[i-1] on; "cosine": from the first rate to the last over the run.
        rates: learning rates.
        stages: epochs, counted from 0, at whose start the rate drops.
        warmup_steps: steps over which the rate rises from 0 to rates[0]; <= 0: none.
        steps_per_epoch: steps an epoch.
        epochs: epochs of the run.
    """

    kind: str
    rates: Sequence[float]
    stages: Sequence[int]
    warmup_steps: int
    steps_per_epoch: int
    epochs: int

    def __call__(self, step: int) -> float:
        """Return the learning rate of `step`, counted from 0 over the whole run."""
        if step <= self.warmup_steps and self.warmup_steps > 0:
            return self.rates[0] * step / self.warmup_steps
        if self.kind == "step":
            return self.rates[bisect_right(self.stages, step // self.steps_per_epoch)]
        start = max(self.warmup_steps, 0)
        progress = (step - start) / max(self.steps_per_epoch * self.epochs - start, 1)
        first, last = self.rates[0], self.rates[-1]
        return last + (first - last) * (1 + math.cos(math.pi * min(progress, 1.0))) / 2
