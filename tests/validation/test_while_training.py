"""Validation between epochs: the evaluator's figures, the best client, and a run that does not notice."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from conftest import TinySet, draw_face
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from torchkit.backbone import get_model
from torchkit.config import load_config
from torchkit.data.validation_set import load_validation_set, write_validation_set
from torchkit.system import load_system
from torchkit.task import TrainTask
from validation.config import Settings
from validation.measure.conditions import Case, cases
from validation.measure.evaluate import Computation, embed
from validation.protocol.verification import verify
from validation.while_training import Score, ValidationHook, read_scores, write_scores

COMPENSATED = "tiny/gaussian/compensated"


@pytest.fixture
def experiment(tmp_path: Path, tiny_set: TinySet) -> Path:
    torch.save(get_model("mobilefacenet").state_dict(), tmp_path / "server.pth")
    images = np.stack([draw_face(seed).transpose(2, 0, 1) for seed in range(100, 110)])
    rows = np.random.default_rng(0).integers(0, 10, 40)
    write_validation_set(tmp_path / "sets", "tiny", images, np.arange(20) % 2 == 0, rows)
    values = {
        "DATA_ROOT": "images", "INDEX_ROOT": "index", "DATASETS": [{"name": tiny_set.name, "batch_size": 6}],
        "MODEL_ROOT": "out", "LOG_ROOT": "out/tensorboard", "LOGS": "out", "NUM_WORKERS": 0, "NUM_EPOCH": 2,
        "OPTIMIZER": "adamw", "SCHEDULE": "cosine", "LRS": [0.001], "SHUFFLE": {"SEED": 7},
        "CLIENT": {"INTERFACE": "random"},
        "SERVER": {"NAME": "mobilefacenet", "CHECKPOINT": "server.pth"}, "VAL_DATA_ROOT": "sets",
        "VALIDATION": {"EVERY_EPOCHS": 1, "DATASETS": ["tiny"], "OBFUSCATIONS": ["gaussian"]},
    }  # fmt: skip
    path = tmp_path / "experiment.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def run(experiment: Path, *overrides: str, validate: bool = True) -> Path:
    config = load_config(experiment, list(overrides))
    TrainTask(config).run([ValidationHook(config)] if validate else [])
    return config.MODEL_ROOT


def test_scores_are_the_evaluators_and_the_best_client_is_kept(experiment: Path) -> None:
    out = run(experiment)
    scores = read_scores(out / "validation.json")
    assert [score.epoch for score in scores] == [1, 2]
    data = load_validation_set(experiment.parent / "sets", "tiny")
    for score in scores:
        system = load_system(out / f"client_epoch_{score.epoch:03d}.pth")
        found = embed(system, data, cases(["gaussian"]), Settings.seed, Computation(torch.device("cpu")))
        expected = verify(found[Case("compensated", "gaussian")], data.same).accuracy
        assert score.accuracies[COMPENSATED] == score.mean("compensated") == pytest.approx(expected)
    best = max(scores, key=lambda score: (score.mean("compensated"), -score.epoch))
    assert (out / "client_best.pth").read_bytes() == (out / f"client_epoch_{best.epoch:03d}.pth").read_bytes()
    curves = EventAccumulator(str(out / "tensorboard")).Reload()
    for name in scores[0].accuracies:
        curve = [event.value for event in curves.Scalars(f"validation/{name}")]
        assert curve == pytest.approx([score.accuracies[name] for score in scores])


def test_the_run_does_not_notice(experiment: Path) -> None:
    with_validation = run(experiment)
    without = run(experiment, f"MODEL_ROOT={experiment.parent / 'plain'}", validate=False)
    assert (with_validation / "client.pth").read_bytes() == (without / "client.pth").read_bytes()


def test_a_resumed_run_replaces_the_scores_of_epochs_that_it_repeats(experiment: Path) -> None:
    config = load_config(experiment, ["NUM_EPOCH=1"])
    kept, repeated = Score(0, {COMPENSATED: 1.0}), Score(1, {COMPENSATED: 1.0})
    write_scores(config.MODEL_ROOT / "validation.json", [kept, repeated], "compensated")
    TrainTask(config).run([ValidationHook(config)])
    scores = read_scores(config.MODEL_ROOT / "validation.json")
    assert scores[0] == kept and scores[1].epoch == 1 and scores[1].mean("compensated") < 1
    assert not (config.MODEL_ROOT / "client_best.pth").exists()  # epoch 0 was better


@pytest.mark.parametrize(
    ("override", "message"), [("VAL_DATA_ROOT=", "VAL_DATA_ROOT"), ("VALIDATION.DATASETS=[absent]", "absent")]
)
def test_what_is_missing_is_said_before_the_run(experiment: Path, override: str, message: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        ValidationHook(load_config(experiment, [override]))


@pytest.mark.parametrize("text", ["{", "[{}]", '[{"epoch": "x", "accuracies": {}}]', "[3]"])
def test_a_damaged_file_of_scores_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "validation.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"validation\.json is damaged"):
        read_scores(path)


def test_scores_file_states_the_mean_by_which_the_best_is_chosen(tmp_path: Path) -> None:
    path = tmp_path / "validation.json"
    accuracies = {"a/clear": 1.0, "a/hybrid/compensated": 0.8, "b/hybrid/compensated": 0.9, "b/hybrid/obfuscated": 0.5}
    write_scores(path, [Score(3, accuracies)], "compensated")
    assert json.loads(path.read_text())[0]["compensated"] == pytest.approx(0.85)
