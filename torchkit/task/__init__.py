"""Training runs."""

from torchkit.task.attack_task import AttackTask
from torchkit.task.base import BaseTask
from torchkit.task.server_task import ServerTask
from torchkit.task.train_task import TrainTask

__all__ = ["AttackTask", "BaseTask", "ServerTask", "TrainTask"]
