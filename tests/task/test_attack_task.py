"""Training of attackers: what they learn, and that stopping one changes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import draw_face, write_jpeg
from parties import write_files

from torchkit.attack.attacker_file import load_attacker
from torchkit.config import AttackConfig
from torchkit.task import AttackTask
from torchkit.task.attack_task import ATTACKER_NAME, read_learning_curve, split_people
from torchkit.task.hooks import Hook

PEOPLE, IMAGES = 8, 4


class Killed(Exception):
    pass


class KillHook(Hook):
    def __init__(self, step: int) -> None:
        self.step = step

    def after_step(self, task: Any, metrics: Any) -> None:
        if task.step == self.step:
            task.save_checkpoint()
            raise Killed


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A client, its server, and faces of 8 people."""
    folder = tmp_path_factory.mktemp("attack")
    write_files(folder)
    lines = []
    for person in range(PEOPLE):
        for image in range(IMAGES):
            name = f"train/{person}/{image}.jpg"
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            write_jpeg(folder / name, draw_face(IMAGES * person + image))
            lines.append(f"{name} {person}\n")
    (folder / "train.txt").write_text("".join(lines))
    return folder


def config(folder: Path, run: Path, observation: str = "O+e+Z", **attack: Any) -> AttackConfig:
    return AttackConfig.model_validate({
        "DATA_ROOT": folder,
        "INDEX_ROOT": folder,
        "DATASETS": [{"name": "train", "batch_size": 4}],
        "MODEL_ROOT": run,
        "LOGS": run,
        "LOG_ROOT": run / "tensorboard",
        "NUM_EPOCH": 3,
        "DEVICE": "cpu",
        "ATTACK": {
            "CLIENT": folder / "client.pth",
            "OBSERVATION": observation,
            "RECORDED": folder / "observations",
            "WIDTH": 4,
            "STEPS_PER_EPOCH": 4,
            "WATCHED_PEOPLE": 2,
            **attack,
        },
    })  # fmt: skip


def test_learns_and_tells_how(folder: Path, tmp_path: Path) -> None:
    task = AttackTask(config(folder, tmp_path / "run", "clear", STEPS_PER_EPOCH=10))
    untrained = task.watched_loss()["loss"]
    task.run()
    curve = read_learning_curve(tmp_path / "run")
    assert [point["step"] for point in curve] == [10, 20, 30]
    assert curve[-1]["loss"] < untrained
    attacker = load_attacker(tmp_path / "run" / ATTACKER_NAME)
    assert set(attacker.inputs) == set(task.inputs)


def test_stopped_and_resumed_is_the_same(folder: Path, tmp_path: Path) -> None:
    AttackTask(config(folder, tmp_path / "whole")).run()
    with pytest.raises(Killed):
        AttackTask(config(folder, tmp_path / "parts")).run([KillHook(6)])
    AttackTask(config(folder, tmp_path / "parts"), resume=True).run()
    files = [tmp_path / run / ATTACKER_NAME for run in ("whole", "parts")]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert read_learning_curve(tmp_path / "whole") == read_learning_curve(tmp_path / "parts")


def test_starts_where_another_ended(folder: Path, tmp_path: Path) -> None:
    AttackTask(config(folder, tmp_path / "start", "O")).run()
    first = AttackTask(config(folder, tmp_path / "first", "O+Z", START=tmp_path / "start" / ATTACKER_NAME))
    start = load_attacker(tmp_path / "start" / ATTACKER_NAME)
    inputs, _ = first.batch(np.arange(4))
    with torch.no_grad():
        assert torch.allclose(first.decoder.eval()(inputs), start({"O": inputs["O"]}), atol=1e-6)


def test_does_not_learn_from_those_it_watches() -> None:
    people = np.repeat(np.arange(6), 3)
    learned, watched = split_people(people, 2)
    assert set(people[learned]) == {0, 1, 2, 3}
    assert set(people[watched]) == {4, 5}
    with pytest.raises(ValueError, match="at most half"):
        split_people(people, 4)


@pytest.mark.parametrize("observation", ["O+x", "O+O"])
def test_unknown_observations_are_refused(folder: Path, tmp_path: Path, observation: str) -> None:
    with pytest.raises(ValueError, match="observation"):
        config(folder, tmp_path, observation)
