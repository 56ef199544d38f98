"""Training of a recogniser: its loss, its data, resuming, and its file as the server of a client."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from conftest import TinySet, draw_face

import train as train_command
from torchkit.backbone import get_model
from torchkit.backbone.recogniser_file import RECOGNISER_FILE, read_recogniser_weights, save_recogniser_file
from torchkit.config import load_config
from torchkit.data.index import read_index
from torchkit.data.recognition_set import RecognitionSet
from torchkit.data.training_set import SampleKey
from torchkit.data.validation_set import ValidationSet, load_validation_set, write_validation_set
from torchkit.server import load_recogniser
from torchkit.task import ServerTask, TrainTask
from torchkit.task.checkpoints import CheckpointFolder
from torchkit.util.weights import plain_state, save_weights_file
from validation import server_main
from validation.measure.conditions import Parties, cases
from validation.measure.evaluate import Computation, embed
from validation.protocol.verification import verify
from validation.while_training import RecogniserInTraining, Score, ValidationHook, read_scores, write_scores

EMBEDDED = 512


@pytest.fixture
def experiment(tmp_path: Path, tiny_set: TinySet) -> Path:
    """A YAML file with paths relative to itself: 2 epochs of 2 steps on the tiny set."""
    values = {
        "TASK": "server", "BACKBONE_NAME": "MobileFaceNet",
        "DATA_ROOT": "images", "INDEX_ROOT": "index", "DATASETS": [{"name": tiny_set.name, "batch_size": 6}],
        "MODEL_ROOT": "out", "LOG_ROOT": "out/tensorboard", "LOGS": "out", "NUM_WORKERS": 0, "NUM_EPOCH": 2,
        "OPTIMIZER": "adamw", "SCHEDULE": "cosine", "LRS": [0.001, 0.0001],
    }  # fmt: skip
    path = tmp_path / "experiment.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


# Data


def test_samples_are_the_images_half_of_them_mirrored(tiny_set: TinySet) -> None:
    index = read_index(tiny_set.index_root, tiny_set.data_root, tiny_set.name)
    data = RecognitionSet([index], seed=3)
    mirrored = []
    for draw in range(60):
        position = draw % len(index)
        sample = data[SampleKey(0, 0, draw, position)]
        image = index.read(position).transpose(2, 0, 1)
        turned = np.array_equal(sample.clear.numpy(), image[:, :, ::-1])
        assert turned or np.array_equal(sample.clear.numpy(), image)
        assert (sample.clear.dtype, int(sample.label)) == (torch.uint8, position // 4)
        mirrored.append(turned)
    assert 18 < sum(mirrored) < 42
    again = [bool(torch.equal(data[SampleKey(0, 0, d, 0)].clear, data[SampleKey(0, 0, d, 0)].clear)) for d in range(5)]
    assert all(again)


# Loss


@pytest.mark.parametrize(("order", "flipped"), [("auto", True), ("rgb", False)])
def test_loss_is_the_margin_softmax_of_the_embeddings_in_the_colours_asked_for(
    experiment: Path, order: str, flipped: bool
) -> None:
    task = ServerTask(load_config(experiment, [f"SERVER.CHANNEL_ORDER={order}", "DATASETS.0.weight=2"]))
    images, labels = batch = next(iter(task.batches(0, 0)))
    assert images.shape == (6, 3, 112, 112)
    found = task.losses(batch)["loss"].item()
    x = images.float() / 127.5 - 1
    embeddings = F.normalize(task.backbone(x.flip(1) if flipped else x))
    cosines = embeddings @ F.normalize(task.heads[0].weight).t()
    angles = cosines.clamp(-1, 1).acos()
    logits = 64 * torch.where(F.one_hot(labels, 3).bool(), (angles + 0.5).cos(), cosines)
    expected = -2 * logits.log_softmax(dim=1)[torch.arange(6), labels].mean()
    assert found == pytest.approx(expected.item(), rel=1e-3)


def test_training_lowers_the_loss(experiment: Path) -> None:
    task = ServerTask(load_config(experiment, ["NUM_EPOCH=4", "DATASETS.0.scale=16", "SAVE_EPOCHS=[4]"]))
    task.run()
    lines = [line for line in (experiment.parent / "out" / "train.log").read_text().splitlines() if "  loss " in line]
    losses = [float(line.rpartition("loss ")[2]) for line in lines]
    assert losses[-1] < 0.7 * losses[0]


def test_several_branches_have_a_head_each(experiment: Path, tiny_set: TinySet) -> None:
    half = [line for line in tiny_set.index_file.read_text().splitlines() if line.endswith((" 0", " 1"))]
    (tiny_set.index_root / "half.txt").write_text("\n".join(half) + "\n")
    values = yaml.safe_load(experiment.read_text())
    values["DATASETS"].append({"name": "half", "batch_size": 2, "scale": 32})
    experiment.write_text(yaml.safe_dump({**values, "HEAD_NAME": "CosFace"}))
    task = ServerTask(load_config(experiment))
    assert [tuple(head.weight.shape) for head in task.heads] == [(3, EMBEDDED), (2, EMBEDDED)]
    task.train_one_step([next(iter(task.batches(0, 0)))])


def test_mixed_precision_and_accumulation(experiment: Path) -> None:
    task = ServerTask(load_config(experiment, ["NUM_EPOCH=1", "AMP=true", "ACCUMULATE=2"]))
    task.run()
    assert (task.step, task.images_per_step) == (1, 12)


# Resuming


class Killed(Exception):
    """Stands for the end of the process."""


def test_killed_and_resumed_run_ends_with_the_same_bytes(experiment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed within an epoch, after a checkpoint."""
    out = experiment.parent
    settings = ["SAVE_MINUTES=0.000001"]
    ServerTask(load_config(experiment, [*settings, f"MODEL_ROOT={out / 'whole'}"])).run()
    config = load_config(experiment, [*settings, f"MODEL_ROOT={out / 'killed'}"])
    task, step = ServerTask(config), ServerTask.train_one_step

    def stopped(self: ServerTask, batches: list) -> dict[str, float]:
        if self.step == 3:
            raise Killed
        return step(self, batches)

    monkeypatch.setattr(ServerTask, "train_one_step", stopped)
    with pytest.raises(Killed):
        task.run()
    monkeypatch.undo()
    torch.manual_seed(99)
    resumed = ServerTask(config, resume=True)
    assert resumed.step == 3
    resumed.run()
    assert digest(out / "killed" / "recogniser.pth") == digest(out / "whole" / "recogniser.pth")


def test_start_from_weights_and_heads(experiment: Path) -> None:
    out = experiment.parent
    ServerTask(load_config(experiment, ["NUM_EPOCH=1"])).run()
    checkpoint = CheckpointFolder(out / "out" / "checkpoints").files()[0]
    overrides = [
        f"BACKBONE_RESUME={out / 'out' / 'recogniser.pth'}",
        f"HEAD_RESUME={checkpoint}",
        f"MODEL_ROOT={out / 'b'}",
    ]
    task = ServerTask(load_config(experiment, overrides))
    saved = torch.load(checkpoint, weights_only=True)["modules"]
    assert all(torch.equal(tensor, saved["backbone"][key]) for key, tensor in task.backbone.state_dict().items())
    assert torch.equal(task.heads[0].weight, saved["heads"]["0.weight"])


# The file


def test_exported_recogniser_is_the_trained_one_and_serves_a_client(experiment: Path) -> None:
    out = experiment.parent / "out"
    task = ServerTask(load_config(experiment, ["SERVER.CHANNEL_ORDER=rgb", "NUM_EPOCH=1"]))
    task.run()
    recogniser = load_recogniser("mobilefacenet", out / "recogniser.pth")
    assert recogniser.channel_order == "rgb"  # the file says so; published weights of this network take bgr
    images = torch.randint(0, 256, (2, 3, 112, 112), dtype=torch.uint8)
    torch.testing.assert_close(recogniser(images), task.embed(images), rtol=1e-4, atol=1e-5)
    assert load_recogniser("mobilefacenet", out / "recogniser.pth", "bgr").channel_order == "bgr"
    assert (out / "recogniser_epoch_001.pth").read_bytes() == (out / "recogniser.pth").read_bytes()

    client = [
        "TASK=client", "SERVER.NAME=mobilefacenet", f"SERVER.CHECKPOINT={out / 'recogniser.pth'}", "NUM_EPOCH=1",
        f"CLIENT.INIT={out / 'recogniser.pth'}", f"MODEL_ROOT={out / 'client'}", "SHUFFLE.SEED=7",
    ]  # fmt: skip
    trained = TrainTask(load_config(experiment, client))
    assert trained.system.recogniser.channel_order == "rgb"
    stem = task.backbone.state_dict()["conv1.conv.weight"]
    assert torch.equal(trained.system.client.backbone.state_dict()["conv1.conv.weight"], stem)
    trained.run()
    assert (out / "client" / "client.pth").is_file()


def test_file_of_another_network_is_refused_by_name(tmp_path: Path) -> None:
    save_recogniser_file(tmp_path / "recogniser.pth", "mobilefacenet", torch.nn.Linear(1, 1), "rgb", 0)
    with pytest.raises(ValueError, match=r"recogniser\.pth is of mobilefacenet, but ir_18 is asked for; set SERVER"):
        load_recogniser("ir_18", tmp_path / "recogniser.pth")


DAMAGE = {
    "no colours": ({"channel_order": None}, "is a recogniser file, but damaged"),
    "wrong colours": ({"channel_order": "grb"}, "is a recogniser file, but damaged: .* channel order 'grb'"),
    "no network": ({"network": 3}, "is a recogniser file, but damaged: .*network 3"),
    "future": ({"version": 2}, "has version 2; this program reads version 1"),
    "no weights": ({"state_dict": []}, "holds no state dict"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damaged_recogniser_file_is_refused(case: str, tmp_path: Path) -> None:
    change, message = DAMAGE[case]
    good = {
        "format": RECOGNISER_FILE.format,
        "version": 1,
        "network": "ir_18",
        "channel_order": "rgb",
        "state_dict": {"a": torch.ones(1)},
    }
    save_weights_file(tmp_path / "recogniser.pth", {**good, **change})
    with pytest.raises(ValueError, match=message):
        read_recogniser_weights(tmp_path / "recogniser.pth")


# Configuration and command


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("QUANTIZE.BITS=4", "QUANTIZE"),
        ("CAMERA.SHARE=1", "CAMERA"),
        ("SERVER.NAME=ir_18", "SERVER.NAME"),
        ("VALIDATION.OBFUSCATIONS=[]", "VALIDATION.OBFUSCATIONS"),
    ],
)
def test_keys_of_a_client_are_refused(experiment: Path, override: str, key: str) -> None:
    with pytest.raises(ValueError, match=f"{key} is not read by TASK: server, only by TASK: client; remove it"):
        load_config(experiment, [override])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("BACKBONE_NAME=dlib_resnet", "BACKBONE_NAME = dlib_resnet with TASK: server"),
        ("EMBEDDING_SIZE=128", "EMBEDDING_SIZE = 128, but a server called mobilefacenet has embeddings of 512"),
        ("DATASETS.0.batch_size=13", "but the set has only 12 images"),
        ("ACCUMULATE=3", "ACCUMULATE = 3, but an epoch has 2 batches"),
        ("BACKBONE_RESUME=nowhere.pth", "nowhere.pth"),
        ("TASK=teacher", "TASK = 'teacher': allowed are client, server"),
    ],
)
def test_bad_configuration_is_refused(experiment: Path, override: str, message: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        ServerTask(load_config(experiment, [override]))


def command(experiment: Path, *arguments: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["train.py", "--config", str(experiment), *arguments])
    train_command.main(train_command.parse_arguments())


def test_train_command_trains_what_the_task_says(experiment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command(experiment, "NUM_EPOCH=1", monkeypatch=monkeypatch)
    out = experiment.parent / "out"
    assert (out / "recogniser.pth").is_file() and not (out / "client.pth").exists()
    with pytest.raises(ValueError, match="--new-key with TASK: server"):
        command(experiment, "--new-key", monkeypatch=monkeypatch)


# Accuracy


@pytest.fixture
def tiny_pairs(tmp_path: Path) -> ValidationSet:
    images = np.stack([draw_face(seed).transpose(2, 0, 1) for seed in range(100, 106)])
    rows = np.random.default_rng(0).integers(0, 6, 40)
    write_validation_set(tmp_path / "sets", "tiny", images, np.arange(20) % 2 == 0, rows)
    return load_validation_set(tmp_path / "sets", "tiny")


def plain_loop(task: ServerTask, data: ValidationSet) -> np.ndarray:
    """Embeddings of each row, one at a time, from the network itself."""
    network = task.backbone.eval()
    with torch.no_grad():
        rows = [network(torch.from_numpy(data.images[row][None, ::-1].copy()).float() / 127.5 - 1) for row in data.rows]
    return F.normalize(torch.cat(rows)).numpy()


def test_embeddings_of_clear_images_are_those_of_a_plain_loop(experiment: Path, tiny_pairs: ValidationSet) -> None:
    task = ServerTask(load_config(experiment))
    expected = plain_loop(task, tiny_pairs)
    for batch_size in (4, 64):
        system = Parties(RecogniserInTraining(task.embed, task.backbone.embedding_size))
        (case,) = cases((), ["clear"])
        found = embed(system, tiny_pairs, [case], 0, Computation(task.device, batch_size))
        np.testing.assert_allclose(found[case], expected, atol=1e-5)


def test_validation_between_epochs_keeps_the_best(experiment: Path, tiny_pairs: ValidationSet) -> None:
    out = experiment.parent
    overrides = [f"VAL_DATA_ROOT={out / 'sets'}", "VALIDATION.EVERY_EPOCHS=1", "VALIDATION.DATASETS=[tiny]"]
    config = load_config(experiment, overrides)
    task = ServerTask(config)
    task.run([ValidationHook(config)])
    found = {score.epoch: score.accuracies for score in read_scores(out / "out" / "validation.json")}
    assert list(found) == [1, 2]
    assert found[2] == {"tiny/clear": pytest.approx(verify(plain_loop(task, tiny_pairs), tiny_pairs.same).accuracy)}
    best = 1 if found[1]["tiny/clear"] >= found[2]["tiny/clear"] else 2
    assert digest(out / "out" / "recogniser_best.pth") == digest(out / "out" / f"recogniser_epoch_{best:03d}.pth")

    without = load_config(experiment, [*overrides, f"MODEL_ROOT={out / 'plain'}"])
    ServerTask(without).run()  # the run itself does not notice
    # The file holds no configuration, so that equal weights are equal bytes.
    assert digest(out / "plain" / "recogniser.pth") == digest(out / "out" / "recogniser.pth")


def test_scores_of_epochs_that_are_repeated_are_replaced(experiment: Path, tiny_pairs: ValidationSet) -> None:
    out = experiment.parent
    overrides = [f"VAL_DATA_ROOT={out / 'sets'}", "VALIDATION.EVERY_EPOCHS=1", "VALIDATION.DATASETS=[tiny]"]
    config = load_config(experiment, [*overrides, "NUM_EPOCH=1"])
    known = [Score(0, {"tiny": 1.0}), Score(1, {"tiny/clear": 0.0}), Score(2, {"tiny/clear": 0.0})]
    write_scores(out / "out" / "validation.json", known, "clear")  # the first as it was once written
    ServerTask(config).run([ValidationHook(config)])
    found = {score.epoch: score.accuracies for score in read_scores(out / "out" / "validation.json")}
    assert list(found) == [0, 1] and found[1]["tiny/clear"] > 0
    assert not (out / "out" / "recogniser_best.pth").exists()  # epoch 0 was better


def test_missing_sets_and_damaged_scores_are_named(experiment: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"VALIDATION\.EVERY_EPOCHS needs VAL_DATA_ROOT"):
        ValidationHook(load_config(experiment))
    with pytest.raises((ValueError, FileNotFoundError), match="absent"):
        ValidationHook(load_config(experiment, [f"VAL_DATA_ROOT={tmp_path}", "VALIDATION.DATASETS=[absent]"]))
    (tmp_path / "validation.json").write_text('[{"epoch": 1}]')
    with pytest.raises(ValueError, match=r"validation\.json is damaged"):
        read_scores(tmp_path / "validation.json")


def test_command_reports_a_recognisers_accuracy(
    tmp_path: Path, tiny_pairs: ValidationSet, capsys: pytest.CaptureFixture[str]
) -> None:
    network = get_model("mobilefacenet").eval()
    torch.save(plain_state(network), tmp_path / "weights.pth")
    arguments = [
        "--server", "MobileFaceNet", "--server-checkpoint", str(tmp_path / "weights.pth"), "--data-root",
        str(tmp_path / "sets"), "--datasets", "tiny", "--resamples", "0", "--out", str(tmp_path / "report"),
        "--amp", "none", "--device", "cpu",
    ]  # fmt: skip
    server_main.main(server_main.parse_arguments(arguments))
    assert "tiny" in capsys.readouterr().out
    (row,) = json.loads((tmp_path / "report" / "results.json").read_text())["rows"]
    embeddings = F.normalize(
        network(torch.from_numpy(tiny_pairs.images[tiny_pairs.rows]).flip(1).float() / 127.5 - 1)
    ).detach()
    assert row["accuracy"] == pytest.approx(verify(embeddings.numpy(), tiny_pairs.same).accuracy)
    assert (tmp_path / "report" / "report.html").is_file()
    with pytest.raises(SystemExit):
        server_main.main(server_main.parse_arguments([*arguments, "--batch-size", "0"]))
    assert "--batch-size: 0: expected a whole number of at least 1" in capsys.readouterr().err
