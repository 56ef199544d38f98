"""Hooks: what happens around training steps without being part of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch

from torchkit.config import Config


class TrainingRun(Protocol):
    """What a hook may know and ask of the run it belongs to; `BaseTask` is one."""

    config: Config
    device: torch.device
    optimizer: torch.optim.Optimizer
    epoch: int
    """Epochs done."""
    step: int
    """Optimiser steps done, over the whole run."""

    @property
    def steps_per_epoch(self) -> int: ...

    @property
    def total_steps(self) -> int: ...

    @property
    def images_per_step(self) -> int: ...

    def export(self, epoch: int | None) -> None:
        """Write what users take away: after `epoch` epochs, or at the end of the run (None)."""

    def save_checkpoint(self) -> None:
        """Write the run as it is now; every process must call it."""

    def log_scalars(self, scalars: Mapping[str, float]) -> None:
        """Draw other curves than the losses. Main process only."""


class Hook:
    """Called by a training run; each method may be left out."""

    def before_run(self, task: TrainingRun) -> None: ...

    def before_step(self, task: TrainingRun) -> None: ...

    def after_step(self, task: TrainingRun, metrics: Mapping[str, float]) -> None:
        """`task.step` steps are done; `metrics` are the named losses of the last."""

    def after_epoch(self, task: TrainingRun) -> None:
        """`task.epoch` epochs are done."""

    def after_run(self, task: TrainingRun) -> None: ...
