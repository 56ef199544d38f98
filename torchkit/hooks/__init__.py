"""What happens around training steps: learning rate, progress, TensorBoard, checkpoints."""

from torchkit.hooks.base import Hook
from torchkit.hooks.checkpoint import CheckpointHook
from torchkit.hooks.learning_rate import LearningRateHook
from torchkit.hooks.progress import ProgressHook, start_logging
from torchkit.hooks.tensorboard import TensorBoardHook

__all__ = ["CheckpointHook", "Hook", "LearningRateHook", "ProgressHook", "TensorBoardHook", "start_logging"]
