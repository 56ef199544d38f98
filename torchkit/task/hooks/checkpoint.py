"""Save the run at intervals, and after chosen epochs."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import torch

from torchkit.task.hooks.base import Hook, TrainingRun
from torchkit.util import distributed


class CheckpointHook(Hook):
    """Save and export a run, in all processes: sharded heads are collected from them. The main one's clock decides.

    Args:
    save_epochs: epochs, counted from 1, after which to save and to export; None: all.
    save_minutes: minutes between checkpoints within an epoch.
    """

    def __init__(self, save_epochs: Sequence[int] | None, save_minutes: float) -> None:
        self.save_epochs, self.save_seconds = save_epochs, save_minutes * 60

    def before_run(self, task: TrainingRun) -> None:
        self.saved_at = time.monotonic()

    def after_step(self, task: TrainingRun, metrics: Mapping[str, float]) -> None:
        # After the last step of an epoch, `after_epoch` saves instead, when the epoch is counted.
        if task.step % task.steps_per_epoch and self._is_time(task):
            self._save(task)

    def after_epoch(self, task: TrainingRun) -> None:
        last = task.epoch == task.config.NUM_EPOCH
        if self.save_epochs is None or task.epoch in self.save_epochs or last:
            if distributed.is_main():
                task.export(epoch=task.epoch)
            self._save(task)

    def _is_time(self, task: TrainingRun) -> bool:
        due = distributed.is_main() and time.monotonic() - self.saved_at >= self.save_seconds
        return bool(distributed.reduce_max(torch.tensor(int(due), device=task.device)))

    def _save(self, task: TrainingRun) -> None:
        task.save_checkpoint()
        self.saved_at = time.monotonic()
