"""Training checkpoints on disk: write them whole, keep the newest, and load the newest good one."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from torchkit.util.container import Container

CHECKPOINT = Container("training checkpoint", "proface-c training checkpoint")
KEEP = 3

logger = logging.getLogger(__name__)


class CheckpointFolder:
    """The checkpoints of a run, `step_00001234.pt`, at most `KEEP` of them."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def files(self) -> list[Path]:
        """List the checkpoints, newest first."""
        return sorted(self.path.glob("step_*.pt"), reverse=True)

    def save(self, step: int, state: dict[str, Any]) -> Path:
        """Write the state after `step` steps, and delete all but the newest `KEEP` checkpoints."""
        path = self.path / f"step_{step:08d}.pt"
        CHECKPOINT.write(path, state)
        for old in self.files()[KEEP:]:
            old.unlink(missing_ok=True)
        return path

    def load_newest(self) -> tuple[Path, dict[str, Any]] | None:
        """Load the newest checkpoint that can be read; skip torn ones with a warning. None if there is no file.

        Raises:
            ValueError: there are checkpoints, but none can be read.
        """
        files = self.files()
        for path in files:
            try:
                return path, load_training_checkpoint(path)
            except ValueError as error:
                logger.warning("skipped: %s", error)
        if files:
            raise ValueError(
                f"none of the {len(files)} checkpoints in {self.path} can be read; remove them to start anew"
            )
        return None


def load_training_checkpoint(path: Path) -> dict[str, Any]:
    """Load a checkpoint that `CheckpointFolder.save` wrote.

    Raises:
        FileNotFoundError, ValueError: missing, torn or something else.
    """
    return CHECKPOINT.read(path, "train.py writes them as MODEL_ROOT/checkpoints/step_*.pt")
