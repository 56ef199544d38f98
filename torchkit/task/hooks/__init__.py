"""Hooks of a training run: learning rate, progress, TensorBoard, checkpoints."""

from torchkit.task.hooks.base import Hook, TrainingRun
from torchkit.task.hooks.checkpoint import CheckpointHook
from torchkit.task.hooks.learning_rate import LearningRateHook
from torchkit.task.hooks.progress import ProgressHook, start_logging
from torchkit.task.hooks.tensorboard import TensorBoardHook

__all__ = [
    "CheckpointHook",
    "Hook",
    "LearningRateHook",
    "ProgressHook",
    "TensorBoardHook",
    "TrainingRun",
    "start_logging",
]
