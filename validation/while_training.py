"""Validate between the epochs of a training run, with the evaluator of val_main.py; keep the best weights.

Clients are measured under every condition, recognisers on clear images.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from torchkit.config import ClientConfig, EmbeddingConfig
from torchkit.data.validation_set import check_present, load_validation_set
from torchkit.task import BaseTask, ServerTask, TrainTask
from torchkit.task.hooks import Hook, TrainingRun
from torchkit.util.distributed import is_main
from torchkit.util.files import atomic_write_text
from validation.config import Settings
from validation.measure.conditions import Case, Parties, System, cases
from validation.measure.evaluate import Computation, embed
from validation.protocol.verification import verify

logger = logging.getLogger("torchkit")


@dataclass(frozen=True)
class Score:
    """Accuracies after an epoch, 0 to 1, by "set/obfuscation/condition"."""

    epoch: int
    accuracies: dict[str, float]

    def mean(self, condition: str) -> float:
        """Average over sets and obfuscations under one condition, by which the best weights are chosen."""
        chosen = [value for name, value in self.accuracies.items() if name.endswith(f"/{condition}")]
        return fmean(chosen or self.accuracies.values())


@dataclass(frozen=True)
class RecogniserInTraining:
    """A recogniser in training, with the interface that the evaluator needs."""

    embed: Callable[[Tensor], Tensor]
    """(B, 3, 112, 112) uint8 RGB -> (B, D)."""
    embedding_size: int

    def forward_intermediates(self, images: Tensor) -> tuple[list[Tensor], Tensor]:
        return [], self.embed(images)


class ValidationHook(Hook):
    """Validate every VALIDATION.EVERY_EPOCHS epochs.

    Writes the accuracies to TensorBoard and to MODEL_ROOT/validation.json, and the best client or recogniser to
    MODEL_ROOT/client_best.pth or recogniser_best.pth: a client is chosen by its mean accuracy on compensated images, a
    recogniser by that on clear ones. A resumed run continues the same file. Validation does not change the run: its
    random numbers stay the same.

    Raises:
        FileNotFoundError, ValueError: a set is missing or VAL_DATA_ROOT is not given; raised before training.
    """

    def __init__(self, config: EmbeddingConfig) -> None:
        if config.VAL_DATA_ROOT is None:
            raise ValueError("VALIDATION.EVERY_EPOCHS needs VAL_DATA_ROOT, the folder of the validation sets")
        check_present(config.VAL_DATA_ROOT, config.VALIDATION.DATASETS)
        self.root, self.settings, self.num_workers = config.VAL_DATA_ROOT, config.VALIDATION, config.NUM_WORKERS
        self.obfuscations = config.VALIDATION.OBFUSCATIONS if isinstance(config, ClientConfig) else ()
        self.file = config.MODEL_ROOT / "validation.json"

    def after_epoch(self, task: TrainingRun) -> None:
        assert isinstance(task, BaseTask)
        if task.epoch % self.settings.EVERY_EPOCHS:
            return
        condition, wanted, system = self._system(task)
        with torch.random.fork_rng():
            score = self._validate(task, system, wanted)
        if is_main():
            self._note(task, score, condition)

    def _system(self, task: BaseTask) -> tuple[str, list[Case], System]:
        """Return the condition by which the best is chosen, the cases to measure, and the system."""
        if isinstance(task, TrainTask):
            return "compensated", cases(self.obfuscations), task.system.eval()
        assert isinstance(task, ServerTask)
        recogniser = RecogniserInTraining(task.embed, task.backbone.embedding_size)
        return "clear", cases((), ["clear"]), Parties(recogniser)

    def _validate(self, task: BaseTask, system: System, wanted: list[Case]) -> Score:
        """Compute the score, in the main process; the others only embed."""
        computation = Computation(task.device, Settings.batch_size, self.num_workers, task.amp_dtype)
        accuracies: dict[str, float] = {}
        for name in self.settings.DATASETS:
            data = load_validation_set(self.root, name)
            embeddings = embed(system, data, wanted, Settings.seed, computation)
            for case, array in embeddings.items() if is_main() else ():
                accuracies[label(name, case)] = verify(array, data.same).accuracy
        return Score(task.epoch, accuracies)

    def _note(self, task: BaseTask, score: Score, condition: str) -> None:
        earlier = [known for known in read_scores(self.file) if known.epoch < task.epoch]
        mean = score.mean(condition)
        if all(mean > known.mean(condition) for known in earlier):
            if isinstance(task, TrainTask):
                task.save_client("client_best.pth")
            elif isinstance(task, ServerTask):
                task.save_recogniser("recogniser_best.pth")
        write_scores(self.file, [*earlier, score], condition)
        task.log_scalars({f"validation/{name}": value for name, value in score.accuracies.items()})
        logger.info("validation after epoch %d: %s %.2f %%", task.epoch, condition, 100 * mean)


def label(dataset: str, case: Case) -> str:
    """Return set/obfuscation/condition, without the obfuscation where there is none."""
    return "/".join(filter(None, (dataset, case.obfuscation, case.name)))


def read_scores(path: Path) -> list[Score]:
    """Read the scores of the run so far; none if there is no file.

    Raises:
        ValueError: the file is damaged.
    """
    if not path.is_file():
        return []
    try:
        entries: list[dict[str, Any]] = json.loads(path.read_text())
        return [Score(int(entry["epoch"]), dict(entry["accuracies"])) for entry in entries]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error}); delete it, the scores of earlier epochs are lost") from error


def write_scores(path: Path, scores: list[Score], condition: str) -> None:
    """Write the scores with their means under `condition`, whole or not at all."""
    entries = [
        {"epoch": score.epoch, condition: score.mean(condition), "accuracies": score.accuracies} for score in scores
    ]
    atomic_write_text(path, json.dumps(entries, indent=2) + "\n")
