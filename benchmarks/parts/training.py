"""A training step, from the JPEGs on."""

from __future__ import annotations

import contextlib
import io
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks import baseline
from benchmarks.harness import Comparison, Sizes, note, require_close, unchecked
from benchmarks.inputs import CLIENT, KEY_SEED, SEED, published_system
from torchkit.config import ClientConfig
from torchkit.data.index import read_index
from torchkit.obfuscation import RandomObfuscation
from torchkit.task import TrainTask
from torchkit.util.seeding import stream

LEARNING_RATE = 1e-3
LOSS_TOLERANCE = 1e-3
"""How far the losses may be apart, relative."""

# The keys of the toolkit's configuration that make its losses the published ones.
PUBLISHED_RECIPE = {
    "SHUFFLE": {"BLOCK_PX": baseline.BLOCK_PX, "SEED": KEY_SEED},
    "DISTILLATION": {"FORM": "mse", "WEIGHT": 1.0},
    "CLIENT": {"LAYOUT": "published", "INTERFACE": "random"},
    "AMP": False,
}


def make_task(folder: Path, sizes: Sizes, changes: dict[str, Any] | None = None) -> TrainTask:
    """A training run over the prepared set; `changes` replaces keys of its configuration."""
    values = {
        "DATA_ROOT": folder / "images",
        "INDEX_ROOT": folder,
        "DATASETS": [{"name": "noise", "batch_size": sizes.batch_size}],
        "LRS": [LEARNING_RATE],
        "STAGES": [],
        "SERVER": {"NAME": sizes.server, "CHECKPOINT": folder / "server.pth", "CHANNEL_ORDER": "rgb"},
        "BACKBONE_NAME": CLIENT,
        "CLIENT": {"LAYOUT": "native", "INTERFACE": "random"},
        "SHUFFLE": {"BLOCK_PX": 14, "SEED": KEY_SEED},
        "DISTILLATION": {"FORM": "cosine", "WEIGHT": 10},
        "NUM_WORKERS": 0,
        "AMP": sizes.amp if sizes.amp != "none" else False,
        "DEVICE": "cpu",
        **dict.fromkeys(("MODEL_ROOT", "LOG_ROOT", "LOGS"), folder / "out"),
        **(changes or {}),
    }
    with contextlib.redirect_stdout(io.StringIO()):  # what it logs describes a run
        task = TrainTask(ClientConfig.model_validate(values))
    for module in task.trained_modules().values():
        module.train()
    return task


def toolkit_step(task: TrainTask) -> Callable[[], None]:
    """TrainTask's step: the one batch of the next epoch, from its JPEGs on."""
    epochs = itertools.count()

    def step() -> None:
        task.train_one_step(next(iter(task.step_batches(next(epochs), 0))))

    return step


def published_training(folder: Path, sizes: Sizes) -> baseline.PublishedTraining:
    system = published_system(folder, sizes)
    centres = 0.01 * torch.randn(sizes.batch_size, system.network.embedding_size)
    return baseline.PublishedTraining(system, centres, LEARNING_RATE)


def published_step(folder: Path, sizes: Sizes) -> Callable[[], None]:
    """The baseline's step over the same set, from its JPEGs on."""
    training = published_training(folder, sizes)
    index = read_index(folder, folder / "images", "noise")
    sampler, rng = RandomObfuscation(), stream(SEED, "baseline")

    def step() -> None:
        training.step(*baseline.load_batch(index, sampler, rng, sizes.batch_size))

    return step


def copy_training(task: TrainTask, training: baseline.PublishedTraining) -> None:
    """Give the baseline the weights of the toolkit's run (PUBLISHED_RECIPE)."""
    training.system.copy_weights(task.system)
    training.centres.data.copy_(task.heads[0].get_parameter("weight"))


def check_losses(folder: Path, sizes: Sizes) -> None:
    """Both sides' first losses in float32, for the same weights and the same obfuscated images.

    Raises:
        MismatchError: one differs.
    """
    note("training_step: comparison of the losses")
    task = make_task(folder, sizes, PUBLISHED_RECIPE)
    training = published_training(folder, sizes)
    copy_training(task, training)
    batch = next(iter(task.batches(0, 0)))
    ours = task.losses(batch)
    theirs = training.losses(baseline.to_float(batch.clear), baseline.to_float(batch.obfuscated), batch.label)
    for name, loss in theirs.items():
        expected = loss.item()
        error = abs(ours[name].item() - expected) / max(abs(expected), 1e-12)
        require_close(f"training_step: the {name} losses (relative)", error, LOSS_TOLERANCE)


def training_step(folder: Path, sizes: Sizes) -> Comparison:
    check_losses(folder, sizes)
    ours = toolkit_step(make_task(folder, sizes))
    return Comparison(published_step(folder, sizes), ours, unchecked)
