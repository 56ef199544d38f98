"""Validation between epochs of a training run, by the evaluator of val_main.py: curves, and the best client so far."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from torchkit.config import ClientConfig
from torchkit.data.validation_set import check_present, load_validation_set
from torchkit.task import TrainTask
from torchkit.task.hooks import Hook, TrainingRun
from torchkit.util.distributed import is_main
from torchkit.util.files import atomic_write_text
from validation.config import Settings
from validation.measure.evaluate import Condition, embed
from validation.protocol.verification import verify

logger = logging.getLogger("torchkit")


@dataclass(frozen=True)
class Score:
    """Accuracies after an epoch, 0 to 1, by "set/obfuscation/condition"."""

    epoch: int
    accuracies: dict[str, float]

    @property
    def compensated(self) -> float:
        """Mean over sets and obfuscations: what the best client is chosen by."""
        found = [value for name, value in self.accuracies.items() if name.endswith("/compensated")]
        return sum(found) / len(found)


class ValidationHook(Hook):
    """Validates every VALIDATION.EVERY_EPOCHS epochs.

    Writes the accuracies to TensorBoard and to MODEL_ROOT/validation.json, and the best client to
    MODEL_ROOT/client_best.pth. A resumed run goes on in the same file. The run itself does not notice: its random
    numbers stay what they are.

    Raises:
        FileNotFoundError, ValueError: at once, when a set is missing or VAL_DATA_ROOT is not given.
    """

    def __init__(self, config: ClientConfig) -> None:
        settings = config.VALIDATION
        if config.VAL_DATA_ROOT is None:
            raise ValueError("VALIDATION.EVERY_EPOCHS needs VAL_DATA_ROOT, the folder of the validation sets")
        check_present(config.VAL_DATA_ROOT, settings.DATASETS)
        self.root, self.settings, self.num_workers = config.VAL_DATA_ROOT, settings, config.NUM_WORKERS
        self.file = config.MODEL_ROOT / "validation.json"

    def after_epoch(self, task: TrainingRun) -> None:
        assert isinstance(task, TrainTask)
        if task.epoch % self.settings.EVERY_EPOCHS:
            return
        with torch.random.fork_rng():
            score = self._validate(task)
        if score is not None:
            self._note(task, score)

    def _note(self, task: TrainTask, score: Score) -> None:
        earlier = [known for known in read_scores(self.file) if known.epoch < task.epoch]
        if all(score.compensated > known.compensated for known in earlier):
            task.save_client("client_best.pth")
        write_scores(self.file, [*earlier, score])
        task.log_scalars({f"validation/{name}": value for name, value in score.accuracies.items()})
        logger.info("validation after epoch %d: compensated %.2f %%", task.epoch, 100 * score.compensated)

    def _validate(self, task: TrainTask) -> Score | None:
        """The score, in the main process; the others only embed."""
        system = task.system.eval()
        accuracies: dict[str, float] = {}
        for name in self.settings.DATASETS:
            data = load_validation_set(self.root, name)
            found = embed(
                system, data, self.settings.OBFUSCATIONS, task.device, Settings.batch_size, self.num_workers,
                Settings.seed, amp=task.amp_dtype,
            )  # fmt: skip
            for condition, embeddings in found.items() if is_main() else ():
                accuracies[label(name, condition)] = verify(embeddings, data.same).accuracy
        return Score(task.epoch, accuracies) if is_main() else None


def label(dataset: str, condition: Condition) -> str:
    """set/obfuscation/condition, the clear images without an obfuscation."""
    return "/".join(filter(None, (dataset, condition.obfuscation, condition.name)))


def read_scores(path: Path) -> list[Score]:
    """Scores of the run so far; none without the file.

    Raises:
        ValueError: the file is damaged.
    """
    if not path.is_file():
        return []
    try:
        found: list[dict[str, Any]] = json.loads(path.read_text())
        return [Score(int(entry["epoch"]), dict(entry["accuracies"])) for entry in found]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error}); delete it, the scores of earlier epochs are lost") from error


def write_scores(path: Path, scores: list[Score]) -> None:
    """Write them, whole or not at all."""
    entries = [
        {"epoch": score.epoch, "compensated": score.compensated, "accuracies": score.accuracies} for score in scores
    ]
    atomic_write_text(path, json.dumps(entries, indent=2) + "\n")
