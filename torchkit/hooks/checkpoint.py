"""Saves the run: every so many minutes, and at the ends of chosen epochs."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from torchkit.hooks.base import Hook

if TYPE_CHECKING:
    from torchkit.task.base import BaseTask


class CheckpointHook(Hook):
    """Args:
    save_epochs: epochs, counted from 1, after which to save and to export; None: all.
    save_minutes: minutes between checkpoints within an epoch.
    """

    def __init__(self, save_epochs: Sequence[int] | None, save_minutes: float) -> None:
        self.save_epochs, self.save_seconds = save_epochs, save_minutes * 60

    def before_run(self, task: BaseTask) -> None:
        self.saved_at = time.monotonic()

    def after_step(self, task: BaseTask, metrics: Mapping[str, float]) -> None:
        # The last step of an epoch is saved with the epoch, which is counted only then.
        if time.monotonic() - self.saved_at >= self.save_seconds and task.step % task.steps_per_epoch:
            self._save(task)

    def after_epoch(self, task: BaseTask) -> None:
        last = task.epoch == task.config.NUM_EPOCH
        if self.save_epochs is None or task.epoch in self.save_epochs or last:
            task.export(epoch=task.epoch)
            self._save(task)

    def _save(self, task: BaseTask) -> None:
        task.save_checkpoint()
        self.saved_at = time.monotonic()
