"""Training runs."""

from torchkit.task.base import BaseTask
from torchkit.task.train_task import TrainTask

__all__ = ["BaseTask", "TrainTask"]
