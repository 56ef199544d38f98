"""The clients on the frontier, and the commands that train and measure them; existing results are kept."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
SET = "faces"
"""Name of the validation set that the clients are measured on."""
OBFUSCATION = "hybrid"
CLIENT_CONDITIONS = ("clear", "obfuscated", "compensated", "client_alone")
SERVER_CONDITIONS = ("embedding_1_bit", "embedding_2_bit")
"""Need no client: measured with one of them."""

logger = logging.getLogger("torchkit")


@dataclass(frozen=True)
class Recipe:
    """A client of the frontier: a configuration, and changes to it."""

    name: str
    """Its name in tables and charts."""
    config: str
    """File under configs/."""
    changes: tuple[str, ...] = ()
    """KEY=VALUE overrides."""
    starts_from_server: bool = False
    """Whether its network starts from the recogniser's weights."""
    conditions: tuple[str, ...] = CLIENT_CONDITIONS

    @property
    def folder(self) -> str:
        return self.name.replace(" ", "_")


LIGHT = "light.yaml"
RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe("light client", LIGHT, conditions=CLIENT_CONDITIONS + SERVER_CONDITIONS),
        Recipe("private light client", LIGHT, ("CLIENT.BOTTLENECK=[8, 0, 0, 0]", "ADVERSARY.WEIGHT=2")),
        Recipe(
            "split computing",
            LIGHT,
            (
                "BACKBONE_NAME=MobileFaceNet", "CLIENT.CHANNEL_ORDER=bgr", "CLIENT.FREEZE_NORMS=true",
                "CLIENT.BOTTLENECK=[8, 0, 0, 0]", "SHUFFLE.BLOCK_PX=28",
            ),
            starts_from_server=True,
        ),
        Recipe(
            "published form",
            "faces.yaml",
            (
                "CLIENT.INPUT=residual", "CLIENT.INTERFACE=random", "CLIENT.FREEZE_NORMS=false",
                "CLIENT.CHANNEL_ORDER=rgb", "COMPENSATION.FORM=gate", "SHUFFLE.TAPS=[1]", "SHUFFLE.BLOCK_PX=14",
                "QUANTIZE.BITS=8", "PRUNE.CHANNELS=0", "LRS=[0.001, 0.00001]", "CLIENT.INIT=",
            ),
        ),
        Recipe("recogniser on the phone", "faces.yaml", starts_from_server=True),
    )
}  # fmt: skip


@dataclass(frozen=True)
class Frontier:
    """Where the data are, and where results go.

    Args:
        faces: aligned faces with train.txt.
        sets: folder with the validation set `SET`.
        server: weights of the recogniser.
        judge: weights of the recogniser that judges reconstructions; None: nothing is attacked.
        out: a folder for each recipe.
    """

    faces: Path
    sets: Path
    server: Path
    judge: Path | None
    out: Path

    def run(self, recipe: Recipe) -> None:
        """Train a recipe, measure it and attack it, unless that has been done."""
        folder = self.out / recipe.folder
        steps = {folder / "client.pth": self.training, self.accuracy_file(recipe): self.validation}
        if self.judge is not None:
            steps[self.leakage_file(recipe)] = self.attack
        for result, command in steps.items():
            if not result.is_file():
                run(command(recipe), result)

    def accuracy_file(self, recipe: Recipe) -> Path:
        return self.out / recipe.folder / "validation" / "results.json"

    def leakage_file(self, recipe: Recipe) -> Path:
        return self.out / recipe.folder / "attack" / "results.json"

    def training(self, recipe: Recipe) -> list[str]:
        folder = self.out / recipe.folder
        places = {
            "DATA_ROOT": self.faces, "INDEX_ROOT": self.faces, "SERVER.CHECKPOINT": self.server, "MODEL_ROOT": folder,
            "LOGS": folder, "LOG_ROOT": folder / "tensorboard",
        }  # fmt: skip
        if recipe.starts_from_server:
            places["CLIENT.INIT"] = self.server
        return [
            "train.py", "--config", f"configs/{recipe.config}", "--resume",
            *(f"{key}={path}" for key, path in places.items()), *recipe.changes,
        ]  # fmt: skip

    def validation(self, recipe: Recipe) -> list[str]:
        return [
            "validation/val_main.py", "--backbone-resume", str(self.out / recipe.folder / "client.pth"),
            "--data-root", str(self.sets), "--datasets", SET, "--obfuscations", OBFUSCATION,
            "--conditions", *recipe.conditions, "--fit-on", str(self.faces / "train"),
            "--out", str(self.accuracy_file(recipe).parent),
        ]  # fmt: skip

    def attack(self, recipe: Recipe) -> list[str]:
        return [
            "validation/attack_main.py", "--client", str(self.out / recipe.folder / "client.pth"),
            "--faces", str(self.faces), "--attacks", "inversion", "--judge-checkpoint", str(self.judge),
            "--out", str(self.leakage_file(recipe).parent),
        ]  # fmt: skip


def run(command: Sequence[str], result: Path) -> None:
    """Run a command of this project from its root until it has written `result`.

    Raises:
        ValueError: the command failed, or ended without a result.
    """
    logger.info("python %s", " ".join(command))
    ended = subprocess.run([sys.executable, *command], cwd=ROOT, check=False)
    if ended.returncode or not result.is_file():
        raise ValueError(
            f"`python {' '.join(command)}` ended with exit code {ended.returncode} and "
            f"{'wrote' if result.is_file() else 'without'} {result}; what it says above tells why, and the same "
            "command of the frontier goes on from there"
        )


def read_results(path: Path) -> dict[str, Any]:
    """Read a results.json of this project."""
    contents: dict[str, Any] = json.loads(path.read_text())
    return contents
