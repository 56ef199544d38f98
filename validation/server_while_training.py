"""Validation of a recogniser between epochs of its training: accuracy on clear images, and the best one so far."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from statistics import fmean

import torch

from torchkit.config import RecogniserConfig
from torchkit.data.validation_set import check_present, load_validation_set
from torchkit.task import ServerTask
from torchkit.task.hooks import Hook, TrainingRun
from torchkit.util.distributed import is_main
from torchkit.util.files import atomic_write_text
from validation.config import Settings
from validation.measure.clear import embed_clear
from validation.protocol.verification import verify

logger = logging.getLogger("torchkit")

Accuracies = dict[str, float]
"""Set -> accuracy, 0 to 1."""


class ServerValidationHook(Hook):
    """Validates every VALIDATION.EVERY_EPOCHS epochs, on one process.

    Writes the accuracies to TensorBoard and to MODEL_ROOT/validation.json, and the recogniser whose mean over the sets
    is best to MODEL_ROOT/recogniser_best.pth. A resumed run goes on in the same file. The run itself does not notice.

    Raises:
        FileNotFoundError, ValueError: at once, when a set is missing or VAL_DATA_ROOT is not given.
    """

    def __init__(self, config: RecogniserConfig) -> None:
        if config.VAL_DATA_ROOT is None:
            raise ValueError("VALIDATION.EVERY_EPOCHS needs VAL_DATA_ROOT, the folder of the validation sets")
        check_present(config.VAL_DATA_ROOT, config.VALIDATION.DATASETS)
        self.root, self.settings = config.VAL_DATA_ROOT, config.VALIDATION
        self.file = config.MODEL_ROOT / "validation.json"

    def after_epoch(self, task: TrainingRun) -> None:
        assert isinstance(task, ServerTask)
        if task.epoch % self.settings.EVERY_EPOCHS or not is_main():
            return
        with torch.random.fork_rng():
            accuracies = self._validate(task)
        earlier = {epoch: known for epoch, known in read_accuracies(self.file).items() if epoch < task.epoch}
        mean = fmean(accuracies.values())
        if all(mean > fmean(known.values()) for known in earlier.values()):
            task.save_recogniser("recogniser_best.pth")
        write_accuracies(self.file, {**earlier, task.epoch: accuracies})
        task.log_scalars({f"validation/{name}/clear": value for name, value in accuracies.items()})
        logger.info("validation after epoch %d: %.2f %%", task.epoch, 100 * mean)

    def _validate(self, task: ServerTask) -> Accuracies:
        found: Accuracies = {}
        for name in self.settings.DATASETS:
            data = load_validation_set(self.root, name)
            embeddings = embed_clear(task.embed, data, task.device, Settings.batch_size, task.amp_dtype)
            found[name] = verify(embeddings, data.same).accuracy
        return found


def read_accuracies(path: Path) -> dict[int, Accuracies]:
    """Accuracies by epoch of the run so far; none without the file.

    Raises:
        ValueError: the file is damaged.
    """
    if not path.is_file():
        return {}
    try:
        return {int(entry["epoch"]): dict(entry["accuracies"]) for entry in json.loads(path.read_text())}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is damaged ({error}); delete it, the accuracies of earlier epochs are lost"
        ) from error


def write_accuracies(path: Path, found: dict[int, Accuracies]) -> None:
    """Write them, whole or not at all."""
    entries = [{"epoch": epoch, "accuracies": accuracies} for epoch, accuracies in found.items()]
    atomic_write_text(path, json.dumps(entries, indent=2) + "\n")
