"""Training runs."""

from torchkit.task.base import BaseTask
from torchkit.task.server_task import ServerTask
from torchkit.task.train_task import TrainTask

__all__ = ["BaseTask", "ServerTask", "TrainTask"]
