"""Trains the attackers of an inversion, one for each observation and seed, and measures each on held-out people.

OUT/attacks/OBSERVATION/seed_N/ holds an attacker's run; what is finished there is not repeated, and what was stopped
goes on from its last checkpoint.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from torchkit.attack.attacker_file import load_attacker
from torchkit.attack.decoder import IMAGE
from torchkit.attack.inputs import WRONG_KEY_SUFFIX, parse_observation
from torchkit.attack.recording import RecordedFaces
from torchkit.config import AttackConfig
from torchkit.obfuscation import EVALUATION_SEED
from torchkit.server import Recogniser
from torchkit.task.attack_task import ATTACKER_NAME, AttackTask, read_learning_curve
from torchkit.util.device import pick_device
from validation.measure.inversion import Budget, load_measures, measure, reconstruct, save_measures
from validation.measure.reidentification import Gallery

MEAN_FACE = "mean_face"
CURVE_POINTS = 10
"""Of each attacker's learning curve."""
FIRST_RATE, LATER_RATE, LAST_RATE = 2e-3, 1e-3, 1e-6
"""Learning rates: at the start from random weights, at the start from another decoder, at the end."""
START_NAME = "start"
"""Folder of the decoder of the obfuscated image from which others start."""


@dataclass(frozen=True)
class Victim:
    """The client that is attacked, and whose faces the attackers learn from."""

    client: Path
    faces: Path
    """Folder of images and indices."""
    train_set: str = "train"
    """Name of the index of the people that attackers learn from."""
    held_out_set: str = "val"
    """Name of the index, or folder of people, that they are measured on."""
    server: str | None = None
    server_checkpoint: Path | None = None
    obfuscation: str = "hybrid"
    obfuscation_seed: int = EVALUATION_SEED


@dataclass(frozen=True)
class Outcome:
    """What an attacker recovered.

    Attributes:
        observation: that it had.
        seed: of its training; None for what needs no training.
        measures: metric -> (n,) of the held-out images.
        reconstructed: (n, 3, 112, 112) uint8 RGB.
        curve: its learning curve.
    """

    observation: str
    seed: int | None
    measures: dict[str, np.ndarray]
    reconstructed: np.ndarray
    curve: list[dict[str, float]]


class Attackers:
    """Attackers on one client with one budget.

    Args:
        out: folder of the results; OUT/observations and OUT/attacks are written.
        victim: whom to attack.
        budget: of each attacker.
        judge: recognises the reconstructions; None: they are compared as images alone.
        gallery: the held-out clear images, as the judge sees them.
        device: name of the device.
        amp: precision of training, as AMP in a configuration.
    """

    def __init__(
        self, out: Path, victim: Victim, budget: Budget, judge: Recogniser | None, gallery: Gallery | None,
        device: str,
        amp: str | bool,
    ) -> None:  # fmt: skip
        self.out, self.victim, self.budget = out, victim, budget
        self.judge, self.gallery, self.device, self.amp = judge, gallery, device, amp
        self.held_out = RecordedFaces(out / "observations" / "held_out")

    def attack(self, observation: str, seed: int) -> list[Outcome]:
        """Train an attacker and measure it, or read what was measured.

        Returns:
            The outcome, and for features under the client's key that of the same attacker on those under another.
        """
        folder = self._folder(observation, seed)
        outcomes = []
        for suffix in self._suffixes(observation):
            path = folder / f"measures{suffix}.npz"
            if not path.is_file():
                self._train(observation, seed)
                save_measures(path, *self._measured(observation, seed, suffix))
            measures, reconstructed = load_measures(path)
            curve = read_learning_curve(folder) if not suffix else []
            outcomes.append(Outcome(observation + suffix, seed, measures, reconstructed, curve))
        return outcomes

    def mean_face(self) -> Outcome:
        """The mean of the faces that attackers learn from, the same for everybody."""
        path = self.out / "attacks" / MEAN_FACE / "measures.npz"
        if not path.is_file():
            learned = RecordedFaces(self.out / "observations" / "train").array("clear")
            mean = torch.from_numpy(learned[:: max(1, len(learned) // 1000)].mean(axis=0)).round().to(torch.uint8)
            reconstructed = mean.expand(len(self.held_out), -1, -1, -1)
            save_measures(path, self._measures_of(reconstructed), reconstructed)
        return Outcome(MEAN_FACE, None, *load_measures(path), [])

    def _suffixes(self, observation: str) -> Sequence[str]:
        has_key = "Z" in parse_observation(observation) and self.held_out.has(f"server_embedding{WRONG_KEY_SUFFIX}")
        return ("", WRONG_KEY_SUFFIX) if has_key else ("",)

    def _train(self, observation: str, seed: int) -> None:
        if IMAGE not in parse_observation(observation):
            self._run(observation, observation, seed, None)
            return
        start = self._run(START_NAME, IMAGE, seed, None)
        self._run(observation, observation, seed, start)

    def _run(self, name: str, observation: str, seed: int, start: Path | None) -> Path:
        """Train an attacker, or go on with its training; the file that it leaves."""
        folder = self._folder(name, seed)
        if not (folder / ATTACKER_NAME).is_file():
            AttackTask(self._config(folder, observation, seed, start), resume=True).run()
        return folder / ATTACKER_NAME

    def _folder(self, name: str, seed: int) -> Path:
        return self.out / "attacks" / name / f"seed_{seed}"

    def _config(self, folder: Path, observation: str, seed: int, start: Path | None) -> AttackConfig:
        victim, budget = self.victim, self.budget
        steps = budget.start_steps if start is None else budget.steps
        points = min(CURVE_POINTS, steps)
        return AttackConfig.model_validate({
            "SEED": seed,
            "DATA_ROOT": victim.faces,
            "INDEX_ROOT": victim.faces,
            "DATASETS": [{"name": victim.train_set, "batch_size": budget.batch_size}],
            "MODEL_ROOT": folder,
            "LOGS": folder,
            "LOG_ROOT": folder / "tensorboard",
            "NUM_EPOCH": points,
            "LRS": [FIRST_RATE if start is None else LATER_RATE, LAST_RATE],
            "SAVE_MINUTES": 2,
            "AMP": self.amp,
            "DEVICE": self.device,
            "ATTACK": {
                "CLIENT": victim.client,
                "SERVER": victim.server,
                "SERVER_CHECKPOINT": victim.server_checkpoint,
                "OBSERVATION": observation,
                "OBFUSCATION": victim.obfuscation,
                "OBFUSCATION_SEED": victim.obfuscation_seed,
                "IMAGES": budget.images,
                "RECORDED": self.out / "observations",
                "START": start,
                "WIDTH": budget.width,
                "STEPS_PER_EPOCH": steps // points,
            },
        })  # fmt: skip

    def _measured(self, observation: str, seed: int, suffix: str) -> tuple[dict[str, np.ndarray], Tensor]:
        """Measures and reconstructions of a trained attacker on the held-out people."""
        decoder = load_attacker(self._folder(observation, seed) / ATTACKER_NAME).to(pick_device(self.device))
        arrays = {name: name + suffix if self.held_out.has(name + suffix) else name for name in decoder.inputs}
        reconstructed = reconstruct(decoder, self.held_out, arrays)
        return self._measures_of(reconstructed), reconstructed

    def _measures_of(self, reconstructed: Tensor) -> dict[str, np.ndarray]:
        return measure(reconstructed, self.held_out.array("clear"), self.judge, self.gallery)
