"""Training of an attacker: a decoder from an observation of faces back to their clear images."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from torchkit.attack.attacker_file import load_attacker, save_attacker, start_from
from torchkit.attack.decoder import Decoder
from torchkit.attack.inputs import AttackInputs, parse_observation
from torchkit.attack.losses import ReconstructionLoss
from torchkit.attack.recording import RecordedFaces, Recorder, as_input, choose_images
from torchkit.config.attack import AttackConfig
from torchkit.data.index import read_index
from torchkit.system import load_system
from torchkit.task.base import BaseTask
from torchkit.util import distributed
from torchkit.util.files import atomic_write_text
from torchkit.util.seeding import stream

logger = logging.getLogger("torchkit")

STATISTICS_IMAGES = 500
"""From which the mean and deviation of each input are taken."""
WATCHED_IMAGES = 200
"""On which the learning curve is measured, at most."""
ATTACKER_NAME, CURVE_NAME = "attacker.pth", "learning_curve.json"

Batch = tuple[dict[str, Tensor], Tensor]
"""The decoder's inputs, by name, and the clear images (B, 3, 112, 112) in [0, 1]."""


class AttackTask(BaseTask):
    """Minimises  L1 + SSIM_WEIGHT (1 - SSIM) + PERCEPTUAL_WEIGHT map_error  of reconstructions from an observation.

    What is observed of the images of DATASETS is recorded first, so that a step costs the decoder alone. An epoch is
    STEPS_PER_EPOCH steps; after each the reconstructions of people that the attacker does not learn from go into
    MODEL_ROOT/learning_curve.json.
    """

    config: AttackConfig

    def build(self) -> None:
        config, attack = self.config, self.config.ATTACK
        system = load_system(attack.CLIENT, attack.SERVER, attack.SERVER_CHECKPOINT).to(self.device)
        maker = AttackInputs(system)
        self.inputs = maker.inputs(parse_observation(attack.OBSERVATION))
        self.faces = self._record(maker)
        self.learned, self.watched = split_people(self.faces.people, attack.WATCHED_PEOPLE)
        examples = self.batch(self.learned[:: max(1, len(self.learned) // STATISTICS_IMAGES)])
        self.decoder = Decoder(self.inputs, attack.WIDTH, examples[1].mean(dim=0))
        self.decoder.to(self.device).to(memory_format=torch.channels_last)
        self.decoder.fit_statistics(examples[0])
        if attack.START is not None:
            start_from(self.decoder, load_attacker(attack.START).to(self.device), str(attack.START))
        self.loss = ReconstructionLoss(attack.SSIM_WEIGHT, attack.PERCEPTUAL_WEIGHT, system.recogniser)
        self.batches_per_epoch = attack.STEPS_PER_EPOCH * config.ACCUMULATE
        self.images_per_batch = config.DATASETS[0].batch_size

    def _record(self, maker: AttackInputs) -> RecordedFaces:
        config, attack = self.config, self.config.ATTACK
        index = read_index(config.INDEX_ROOT, config.DATA_ROOT, config.DATASETS[0].name)
        positions = choose_images(index.labels, attack.IMAGES)
        folder = attack.RECORDED / "train"
        recorder = Recorder(folder, maker, index, positions, attack.OBFUSCATION, attack.OBFUSCATION_SEED, self.device)
        recorder.record(sorted({*self.inputs, "clear"}))
        return RecordedFaces(folder)

    def trained_modules(self) -> dict[str, nn.Module]:
        return {"decoder": self.decoder}

    def batch(self, positions: np.ndarray) -> Batch:
        """The recorded faces at `positions`."""
        clear = as_input(self.faces.array("clear")[positions], self.device)
        return self.faces.batch({name: name for name in self.inputs}, positions, self.device), clear

    def batches(self, epoch: int, first: int) -> Iterator[Batch]:
        """Batches of images drawn at random, a function of seed, epoch and place; this process's part."""
        for number in range(first, self.batches_per_epoch):
            rng = stream(self.config.SEED, "attack batch", epoch, number)
            drawn = rng.choice(self.learned, self.images_per_batch, replace=False)
            yield self.batch(np.sort(drawn[distributed.rank() :: distributed.world_size()]))

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        inputs, clear = batch
        return self.loss(self.decoder(inputs).float(), clear)

    @torch.no_grad()
    def watched_loss(self) -> dict[str, float]:
        """Mean losses on the people that the attacker does not learn from."""
        self.decoder.eval()
        positions = self.watched[:: max(1, len(self.watched) // WATCHED_IMAGES)]
        parts = [self.losses(self.batch(part)) for part in np.array_split(positions, -(-len(positions) // 50))]
        return {name: float(np.mean([part[name].item() for part in parts])) for name in parts[0]}

    def export(self, epoch: int | None) -> None:
        """After an epoch the next point of the learning curve, at the end the attacker."""
        root = self.config.MODEL_ROOT
        if epoch is None:
            save_attacker(root / ATTACKER_NAME, self.decoder, self.config.ATTACK.OBSERVATION)
            return
        losses = self.watched_loss()
        self.log_scalars({f"watched/{name}": value for name, value in losses.items()})
        curve = [point for point in read_learning_curve(root) if point["step"] < self.step]
        text = json.dumps([*curve, {"step": self.step, **losses}], indent=2) + "\n"
        atomic_write_text(root / CURVE_NAME, text)


def read_learning_curve(root: Path) -> list[dict[str, float]]:
    """The points of a run's learning curve so far: "step", "loss" and its parts."""
    path = root / CURVE_NAME
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []


def split_people(people: np.ndarray, watched: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the images of all people but the last `watched`, and of those.

    Raises:
        ValueError: too few people.
    """
    names = np.unique(people)
    if len(names) < 2 * watched:
        raise ValueError(
            f"ATTACK.WATCHED_PEOPLE = {watched} of {len(names)}: at most half may be kept out of training; give more "
            "people, or watch fewer"
        )
    is_watched = np.isin(people, names[len(names) - watched :])
    return np.flatnonzero(~is_watched), np.flatnonzero(is_watched)
