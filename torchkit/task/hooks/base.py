"""The interface between hooks and the training run that calls them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch

from torchkit.config import Config


class TrainingRun(Protocol):
    """The attributes and methods of a run that hooks may use; `BaseTask` has them."""

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
        """Write the result of training: after `epoch` epochs, or at the end of the run (None)."""

    def save_checkpoint(self) -> None:
        """Write the state of the run; every process must call it."""

    def log_scalars(self, scalars: Mapping[str, float]) -> None:
        """Log curves beside those of the losses. Main process only."""


class Hook:
    """Called by a training run; subclasses override the methods that they need."""

    def before_run(self, task: TrainingRun) -> None: ...

    def before_step(self, task: TrainingRun) -> None: ...

    def after_step(self, task: TrainingRun, metrics: Mapping[str, float]) -> None:
        """Called when `task.step` steps are done; `metrics` are the losses of the last one by name."""

    def after_epoch(self, task: TrainingRun) -> None:
        """Called when `task.epoch` epochs are done."""

    def after_run(self, task: TrainingRun) -> None: ...
