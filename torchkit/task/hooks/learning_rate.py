"""Set the learning rate before each step."""

from __future__ import annotations

from collections.abc import Callable

from torchkit.task.hooks.base import Hook, TrainingRun


class LearningRateHook(Hook):
    """Args:
    schedule: step, counted from 0 over the whole run -> learning rate.
    """

    def __init__(self, schedule: Callable[[int], float]) -> None:
        self.schedule = schedule

    def before_step(self, task: TrainingRun) -> None:
        rate = self.schedule(task.step)
        for group in task.optimizer.param_groups:
            group["lr"] = rate
