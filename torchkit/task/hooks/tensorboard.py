"""Write scalars for TensorBoard."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from torchkit.task.hooks.base import Hook, TrainingRun

WRITE_EVERY_STEPS = 10


class TensorBoardHook(Hook):
    """Write losses and the learning rate every 10 steps; a resumed run continues the same curves."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def before_run(self, task: TrainingRun) -> None:
        self.writer = SummaryWriter(str(self.folder), purge_step=task.step + 1 if task.step else None)

    def after_step(self, task: TrainingRun, metrics: Mapping[str, float]) -> None:
        if task.step % WRITE_EVERY_STEPS:
            return
        for name, value in metrics.items():
            self.writer.add_scalar(f"train/{name}", value, task.step)
        self.writer.add_scalar("train/learning_rate", task.optimizer.param_groups[0]["lr"], task.step)

    def log(self, task: TrainingRun, scalars: Mapping[str, float]) -> None:
        """Write other scalars at the current step."""
        for name, value in scalars.items():
            self.writer.add_scalar(name, value, task.step)

    def after_run(self, task: TrainingRun) -> None:
        self.writer.close()
