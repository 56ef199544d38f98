"""train.py from outside: results, resuming, kills, and what it says to bad input."""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from conftest import TinySet

import train as train_command
from torchkit.backbone import get_model
from torchkit.client.frequencies import FrequencyTable
from torchkit.config import load_config
from torchkit.head import load_full_state
from torchkit.loss import map_error, weighted_map_error
from torchkit.payload import FREQUENCY_TOTAL
from torchkit.system import load_client_file, restore_client
from torchkit.task import TrainTask
from torchkit.task.checkpoints import CheckpointFolder
from torchkit.util.cli import run_command

ROOT = Path(__file__).resolve().parents[2]
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def experiment(tmp_path: Path, tiny_set: TinySet) -> Path:
    """A YAML file with paths relative to itself: 3 epochs of 3 steps on the tiny set."""
    torch.save(get_model("mobilefacenet").state_dict(), tmp_path / "server.pth")
    values = {
        "DATA_ROOT": "images",
        "INDEX_ROOT": "index",
        "DATASETS": [{"name": tiny_set.name, "batch_size": 4}],
        "MODEL_ROOT": "out",
        "LOG_ROOT": "out/tensorboard",
        "LOGS": "out",
        "OPTIMIZER": "adamw",
        "SCHEDULE": "cosine",
        "LRS": [0.001, 0.0001],
        "NUM_EPOCH": 3,
        "NUM_WORKERS": 0,
        "SERVER": {"NAME": "mobilefacenet", "CHECKPOINT": "server.pth"},
        "CLIENT": {"LAYOUT": "native", "INTERFACE": "zero"},
        "SHUFFLE": {"BLOCK_PX": 14, "SEED": 7},
        "DISTILLATION": {"FORM": "cosine", "WEIGHT": 10},
    }
    path = tmp_path / "experiment.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


@pytest.fixture
def train(experiment: Path, tmp_path: Path) -> Run:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(ROOT / "train.py"), "--config", str(experiment), *arguments]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment(), timeout=120)

    return run


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_run_from_another_folder_writes_its_results(train: Run, experiment: Path) -> None:
    done = train()
    assert done.returncode == 0, done.stderr
    out = experiment.parent / "out"
    assert load_client_file(out / "client.pth").trained_steps == 9
    assert load_config(out / "config.yaml") == load_config(experiment)
    assert "git_revision" in (out / "provenance.json").read_text()
    log = (out / "train.log").read_text()
    assert "step 9/9" in log
    for party in ("client", "server"):
        assert re.search(rf"cost of the {party}: .* million multiply-adds a face, .* in ONNX Runtime", log)
    assert re.search(r"the client costs \d+% of its server .*, more than half", log)
    assert list((out / "tensorboard").glob("events*"))


def test_only_client_and_compensation_learn(experiment: Path) -> None:
    task = TrainTask(load_config(experiment, ["NUM_EPOCH=1"]))
    before = {name: tensor.clone() for name, tensor in task.system.state_dict().items()}
    task.run()
    changed = {name for name, tensor in task.system.state_dict().items() if not torch.equal(tensor, before[name])}
    assert not any(name.startswith("server.recogniser.") for name in changed)
    assert any(name.startswith("client.interfaces.") for name in changed)
    assert any(name.startswith("server.compensation.") for name in changed)
    assert "client.shuffles.1.key" not in changed


def test_loss_is_the_sum_of_its_named_terms(experiment: Path) -> None:
    overrides = ["DISTILLATION.WEIGHT=3", "DISTILLATION.MAP_WEIGHT=0.5", "DATASETS.0.weight=2"]
    task = TrainTask(load_config(experiment, overrides))
    batch = next(iter(task.batches(0, 0)))
    losses = task.losses(batch)
    clear, obfuscated, labels = batch
    task.system.client.train()
    embeddings = task.system(clear, obfuscated)
    logits = task.heads[0](embeddings, labels)
    softmax = -logits.log_softmax(dim=1)[torch.arange(4), labels].mean()
    cosine = 1 - (embeddings * task.system.recogniser(clear)).sum(dim=1).mean()
    assert losses["margin_softmax"].item() == pytest.approx(2 * softmax.item(), rel=1e-4)
    assert losses["distillation"].item() == pytest.approx(cosine.item(), rel=1e-4)
    total = losses["margin_softmax"] + 3 * losses["distillation"] + 0.5 * losses["map_error"]
    assert losses["loss"].item() == pytest.approx(total.item(), rel=1e-5)


@pytest.mark.parametrize("weighting", ["uniform", "sensitivity"])
def test_the_first_epochs_may_be_of_the_last_sent_map_alone(experiment: Path, weighting: str) -> None:
    overrides = [
        "DISTILLATION.MAP_WEIGHT=2", f"DISTILLATION.MAP_WEIGHTING={weighting}", "DISTILLATION.MAP_EPOCHS=1.4",
        "PRUNE.CHANNELS=[1, 0, 1, 1]", "DATASETS.0.weight=0",
    ]  # fmt: skip
    task = TrainTask(load_config(experiment, overrides))
    clear, obfuscated, _ = batch = next(iter(task.batches(0, 0)))
    task.system.client.train()
    losses = task.losses(batch)
    maps = task.system.server.taps(obfuscated, task.system.features(clear, obfuscated))
    targets = task.system.recogniser.forward_intermediates(clear)[0]
    if weighting == "uniform":
        error = map_error(maps[1:2], targets[1:2])
    else:
        assert task.sensitivities is not None
        error = weighted_map_error(maps[1:2], targets[1:2], task.sensitivities[1:2])
    assert losses["loss"].item() == pytest.approx(2 * error.item(), rel=1e-4)
    task.step = 5  # 3 steps an epoch
    assert "distillation" in task.losses(batch)


def test_a_run_goes_from_the_map_to_the_embedding(experiment: Path) -> None:
    overrides = ["DISTILLATION.MAP_WEIGHT=1", "DISTILLATION.MAP_EPOCHS=1", "NUM_EPOCH=2"]
    TrainTask(load_config(experiment, overrides)).run()
    log = (experiment.parent / "out" / "train.log").read_text()
    assert "distillation" in log


def test_a_maps_error_without_weight_is_refused(experiment: Path) -> None:
    with pytest.raises(ValueError, match=r"MAP_EPOCHS = 1.* without MAP_WEIGHT: .* set MAP_WEIGHT to 1"):
        load_config(experiment, ["DISTILLATION.MAP_EPOCHS=1"])


def test_training_reduces_the_distillation_term(experiment: Path) -> None:
    overrides = ["NUM_EPOCH=8", "DATASETS.0.weight=0", "DATASETS.0.batch_size=12", "LRS=[0.002, 0.002]"]
    task = TrainTask(load_config(experiment, [*overrides, "CLIENT.INTERFACE=random"]))
    task.run()
    lines = [line for line in (experiment.parent / "out" / "train.log").read_text().splitlines() if "distill" in line]
    first, last = (float(line.rpartition("distillation ")[2]) for line in (lines[0], lines[-1]))
    assert last < 0.8 * first


def test_adafaces_head_sees_the_norms_of_the_embeddings(experiment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of unit embeddings all would be of the same quality; those of random weights here are far shorter."""
    task = TrainTask(load_config(experiment, ["NUM_EPOCH=1", "HEAD_NAME=AdaFace"]))
    seen = []
    head = type(task.heads[0])
    quality = head._quality
    monkeypatch.setattr(head, "_quality", lambda self, lengths: (seen.append(lengths), quality(self, lengths))[1])
    task.losses(next(iter(task.batches(0, 0))))
    assert len(seen) == 1 and (seen[0] < 0.9).all()


def test_workers_do_not_change_the_result(train: Run, experiment: Path) -> None:
    out = experiment.parent
    assert train("NUM_EPOCH=1", "MODEL_ROOT=a", "NUM_WORKERS=0").returncode == 0
    assert train("NUM_EPOCH=1", "MODEL_ROOT=b", "NUM_WORKERS=2").returncode == 0
    assert digest(out / "a" / "client.pth") == digest(out / "b" / "client.pth")


def test_killed_and_resumed_run_ends_with_the_same_bytes(train: Run, experiment: Path) -> None:
    """Ten SIGKILLs at random moments; the client must be that of an uninterrupted run."""
    settings = ["NUM_EPOCH=20", "SAVE_EPOCHS=[20]", "SAVE_MINUTES=0.0001"]
    assert train("MODEL_ROOT=whole", *settings).returncode == 0
    rng = random.Random(0)
    arguments = ["--config", str(experiment), "--resume", "MODEL_ROOT=killed", *settings]
    kills = 0
    for _ in range(10):
        with subprocess.Popen(
            [sys.executable, str(ROOT / "train.py"), *arguments],
            cwd=experiment.parent, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        ) as process:  # fmt: skip
            _wait_for_checkpoint(experiment.parent / "killed" / "checkpoints", process)
            time.sleep(rng.uniform(0, 0.5))
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
                kills += 1
    assert kills == 10
    done = train("--resume", "MODEL_ROOT=killed", *settings)
    assert done.returncode == 0, done.stderr
    assert digest(experiment.parent / "killed" / "client.pth") == digest(experiment.parent / "whole" / "client.pth")


def _wait_for_checkpoint(folder: Path, process: subprocess.Popen[bytes]) -> None:
    """Until the run has written a checkpoint that was not there before, or has ended."""
    before = set(folder.glob("step_*.pt"))
    while process.poll() is None and not set(folder.glob("step_*.pt")) - before:
        time.sleep(0.02)


def test_resume_skips_a_torn_checkpoint(train: Run, experiment: Path) -> None:
    assert train("MODEL_ROOT=whole").returncode == 0
    assert train("MODEL_ROOT=torn").returncode == 0
    folder = experiment.parent / "torn"
    newest = CheckpointFolder(folder / "checkpoints").files()[0]
    newest.write_bytes(newest.read_bytes()[:5000])
    (folder / "client.pth").unlink()
    done = train("--resume", "MODEL_ROOT=torn")
    assert done.returncode == 0, done.stderr
    assert f"skipped: training checkpoint {newest}" in done.stdout + done.stderr
    assert digest(folder / "client.pth") == digest(experiment.parent / "whole" / "client.pth")


def test_resume_refuses_another_experiment(train: Run) -> None:
    assert train("NUM_EPOCH=1", "SAVE_EPOCHS=[1]").returncode == 0
    done = train("--resume", "NUM_EPOCH=1", "WEIGHT_DECAY=0.1")
    assert done.returncode == 2
    assert "WEIGHT_DECAY: 0.0005 -> 0.1" in done.stderr


def test_a_second_run_does_not_overwrite_the_first(train: Run, experiment: Path) -> None:
    assert train("NUM_EPOCH=1").returncode == 0
    before = digest(experiment.parent / "out" / "client.pth")
    done = train("NUM_EPOCH=1", "SEED=3")
    assert done.returncode == 2
    assert "already holds a run" in done.stderr
    assert digest(experiment.parent / "out" / "client.pth") == before


def test_backbone_resume_starts_from_a_client(train: Run, experiment: Path) -> None:
    assert train("NUM_EPOCH=1").returncode == 0
    client = experiment.parent / "out" / "client.pth"
    task = TrainTask(load_config(experiment, [f"BACKBONE_RESUME={client}", f"MODEL_ROOT={experiment.parent / 'b'}"]))
    for name, tensor in load_client_file(client).client.items():
        assert torch.equal(task.system.client.state_dict()[name], tensor), name


def test_head_resume_takes_the_heads(train: Run, experiment: Path) -> None:
    assert train("NUM_EPOCH=1").returncode == 0
    checkpoint = CheckpointFolder(experiment.parent / "out" / "checkpoints").files()[0]
    overrides = [f"HEAD_RESUME={checkpoint}", f"MODEL_ROOT={experiment.parent / 'b'}"]
    task = TrainTask(load_config(experiment, overrides))
    saved = torch.load(checkpoint, weights_only=True)["modules"]["heads"]["0.weight"]
    assert torch.equal(task.heads[0].weight, saved)


def test_fresh_backbone_takes_client_init(experiment: Path) -> None:
    donor = torch.load(experiment.parent / "server.pth", weights_only=True)
    task = TrainTask(load_config(experiment, [f"CLIENT.INIT={experiment.parent / 'server.pth'}"]))
    state = task.system.client.backbone.state_dict()
    assert torch.equal(state["conv_23.project.conv.weight"], donor["conv_23.project.conv.weight"])
    assert not any(name.startswith("output_layer") for name in state)


def key_of(path: Path) -> torch.Tensor:
    return load_client_file(path).client["shuffles.1.key"]


def test_new_key_replaces_that_of_the_client_it_starts_from(experiment: Path) -> None:
    TrainTask(load_config(experiment, ["NUM_EPOCH=1", f"MODEL_ROOT={experiment.parent / 'old'}"])).run()
    old = experiment.parent / "old" / "client.pth"
    for new_key in (False, True):
        overrides = [f"BACKBONE_RESUME={old}", "SHUFFLE.SEED=null", f"MODEL_ROOT={experiment.parent / str(new_key)}"]
        task = TrainTask(load_config(experiment, overrides), new_key=new_key)
        assert torch.equal(task.system.client.shuffles["1"].key, key_of(old)) != new_key
        own = dict(task.system.client.state_dict())
        del own["shuffles.1.key"]
        assert all(torch.equal(tensor, load_client_file(old).client[name]) for name, tensor in own.items())


def test_compression_can_start_from_a_client_without(experiment: Path) -> None:
    TrainTask(load_config(experiment, ["NUM_EPOCH=1", f"MODEL_ROOT={experiment.parent / 'plain'}"])).run()
    plain = experiment.parent / "plain" / "client.pth"
    overrides = [f"BACKBONE_RESUME={plain}", "QUANTIZE.BITS=4", "PRUNE.CHANNELS=0.5", "CLIENT.IMAGE_QUALITY=90"]
    task = TrainTask(load_config(experiment, overrides))
    own = task.system.client.state_dict()
    assert all(torch.equal(own[name], tensor) for name, tensor in load_client_file(plain).client.items())
    assert set(task.system.client.quantisers.keys()) == set("1234")
    task.run()
    back = TrainTask(
        load_config(
            experiment,
            [f"BACKBONE_RESUME={experiment.parent / 'out' / 'client.pth'}", f"MODEL_ROOT={experiment.parent / 'back'}"],
        )
    )
    assert not back.system.client.quantisers


def test_frequencies_are_counted_when_the_client_is_written(experiment: Path) -> None:
    overrides = ["QUANTIZE.BITS=4", "QUANTIZE.CODING=range", "PRUNE.CHANNELS=[1,0,0,1]", "SHUFFLE.TAPS=[]"]
    TrainTask(load_config(experiment, overrides)).run()
    file = load_client_file(experiment.parent / "out" / "client.pth")
    client = restore_client(file, "client.pth")
    assert set(client.frequencies) == {"2", "3"}
    for name, table in client.frequencies.items():
        assert (table.table.sum(-1) == FREQUENCY_TOTAL).all()
        assert not torch.equal(table.table, FrequencyTable(client.feature_shapes[int(name) - 1], 4).table)


def test_a_client_without_later_taps_starts_from_one_that_has_them_but_not_the_other_way(experiment: Path) -> None:
    def task(name: str, *overrides: str) -> TrainTask:
        folder = f"MODEL_ROOT={experiment.parent / name}"
        return TrainTask(load_config(experiment, ["NUM_EPOCH=1", folder, *overrides]))

    task("whole").run()
    whole, short = (experiment.parent / name / "client.pth" for name in ("whole", "short"))
    shortened = task("short", f"BACKBONE_RESUME={whole}", "PRUNE.CHANNELS=[0,0,1,1]")
    own, expected = shortened.system.client.state_dict(), load_client_file(whole).client
    assert set(own) < set(expected)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in own.items())
    shortened.run()
    with pytest.raises(ValueError, match=r"BACKBONE_RESUME = .*short.client.pth ends after tap 2, but .* sends tap 4"):
        task("long", f"BACKBONE_RESUME={short}")


def test_the_embedding_alone_can_be_learned(experiment: Path) -> None:
    overrides = ["PRUNE.CHANNELS=1", "CLIENT.INPUT=clear", "CLIENT.EMBEDDING=true", "QUANTIZE.EMBEDDING_BITS=4"]
    overrides.append("CLIENT.EMBEDDING_START=ridge")
    TrainTask(load_config(experiment, [*overrides, "NUM_EPOCH=1", "SHUFFLE.TAPS=[]"])).run()
    file = load_client_file(experiment.parent / "out" / "client.pth")
    assert file.settings.embedding_size == 512 and file.client["embedding_interface.weight"].any()
    assert not torch.equal(file.compensation["embedding_weights"], torch.ones(512))


def test_new_key_needs_a_client_to_start_from(experiment: Path) -> None:
    with pytest.raises(ValueError, match="--new-key without BACKBONE_RESUME"):
        TrainTask(load_config(experiment), new_key=True)


@pytest.mark.parametrize("amp", ["true", "fp16"])
def test_mixed_precision_trains_on_the_cpu(experiment: Path, amp: str) -> None:
    task = TrainTask(load_config(experiment, ["NUM_EPOCH=1", f"AMP={amp}"]))
    task.run()
    assert task.step == 3


def test_accumulated_batches_make_one_step_with_their_mean_gradient(experiment: Path) -> None:
    overrides = ["OPTIMIZER=sgd", "SCHEDULE=step", "LRS=[0.5]", "STAGES=[]", "MOMENTUM=0", "WEIGHT_DECAY=0"]
    task = TrainTask(load_config(experiment, [*overrides, "ACCUMULATE=2", "DATASETS.0.batch_size=2"]))
    assert (task.batches_per_epoch, task.steps_per_epoch, task.images_per_step) == (6, 3, 4)
    batches = next(iter(task.step_batches(0, 0)))
    assert len(batches) == 2
    interface = task.system.client.interfaces[3]
    task.system.client.eval()  # batch norms must not see another batch in between
    before, gradients, losses = interface.weight.detach().clone(), [], []
    for batch in batches:
        loss = task.losses(batch)["loss"]
        gradients.append(torch.autograd.grad(loss, interface.weight)[0])
        losses.append(loss.item())
    metrics = task.train_one_step(batches)
    assert metrics["loss"] == pytest.approx(sum(losses) / 2, rel=1e-5)
    expected = before - 0.5 * (gradients[0] + gradients[1]) / 2
    torch.testing.assert_close(interface.weight.detach(), expected, rtol=1e-4, atol=1e-6)


def test_accumulating_more_than_an_epoch_has_is_refused(experiment: Path) -> None:
    with pytest.raises(ValueError, match="ACCUMULATE = 4, but an epoch has 3 batches"):
        TrainTask(load_config(experiment, ["ACCUMULATE=4"]))


def test_resuming_within_accumulated_steps_sees_the_same_images(experiment: Path) -> None:
    task = TrainTask(load_config(experiment, ["ACCUMULATE=2", "DATASETS.0.batch_size=2"]))
    whole = [[batch.clear for batch in batches] for batches in task.step_batches(0, 0)]
    rest = [[batch.clear for batch in batches] for batches in task.step_batches(0, 2)]
    assert len(whole) == 3
    assert all(torch.equal(a, b) for a, b in zip(whole[2], rest[0], strict=True))
    assert len(rest) == 1


@pytest.mark.slow  # compiling takes a minute or two
def test_compiled_networks_give_the_same_loss_and_gradients(experiment: Path) -> None:
    found = []
    for compiled in ("false", "true"):
        overrides = ["CLIENT.INTERFACE=random", f"COMPILE={compiled}", f"MODEL_ROOT={experiment.parent / compiled}"]
        task = TrainTask(load_config(experiment, overrides))
        loss = task.losses(next(iter(task.batches(0, 0))))["loss"]
        loss.backward()
        gradients = [p.grad.flatten() for p in task.system.client.parameters() if p.grad is not None]
        found.append((loss.detach(), torch.cat(gradients)))
    (plain, plain_gradient), (compiled_loss, compiled_gradient) = found
    torch.testing.assert_close(compiled_loss, plain, rtol=1e-4, atol=0)
    assert (compiled_gradient - plain_gradient).norm() < 0.01 * plain_gradient.norm()


def test_several_branches_have_a_head_each(experiment: Path, tiny_set: TinySet) -> None:
    half = [line for line in tiny_set.index_file.read_text().splitlines() if line.endswith((" 0", " 1"))]
    (tiny_set.index_root / "half.txt").write_text("\n".join(half) + "\n")
    values = yaml.safe_load(experiment.read_text())
    values["DATASETS"].append({"name": "half", "batch_size": 2, "scale": 32, "margin": 0.1})
    experiment.write_text(yaml.safe_dump(values))
    task = TrainTask(load_config(experiment, ["NUM_EPOCH=1"]))
    task.run()
    assert [tuple(head.weight.shape) for head in task.heads] == [(3, 512), (2, 512)]
    assert [head.scale for head in task.heads] == [64, 32]
    assert task.step == 4  # the larger need: 8 images, 2 a step


def test_branch_of_weight_0_has_no_head(experiment: Path) -> None:
    out = experiment.parent
    TrainTask(load_config(experiment, ["NUM_EPOCH=1", "DATASETS.0.weight=0"])).run()
    checkpoint = CheckpointFolder(out / "out" / "checkpoints").files()[0]
    assert torch.load(checkpoint, weights_only=True)["modules"]["heads"] == {}
    resumed = TrainTask(load_config(experiment, ["NUM_EPOCH=1", "DATASETS.0.weight=0"]), resume=True)
    assert resumed.step == 3 and not list(resumed.heads.parameters())


def test_checkpoint_with_a_head_of_weight_0_is_refused_with_the_remedy(experiment: Path) -> None:
    task = TrainTask(load_config(experiment, ["DATASETS.0.weight=0"]))
    with pytest.raises(ValueError, match=r"old\.pt holds a head for DATASETS\.0, .*BACKBONE_RESUME"):
        load_full_state(task.heads, {"0.weight": torch.zeros(3, 512)}, "old.pt")


def test_nan_stops_with_step_and_rate(experiment: Path) -> None:
    task = TrainTask(load_config(experiment))
    task.system.client.interfaces[0].weight.data.fill_(float("nan"))
    with pytest.raises(ValueError, match=r"the loss is nan at step 0 with learning rate 0\.001"):
        task.run()


def test_profile_prints_a_table_and_writes_a_trace(train: Run, experiment: Path) -> None:
    done = train("--profile", "1")
    assert done.returncode == 0, done.stderr
    assert "training step" in done.stdout
    assert "traceEvents" in json.loads((experiment.parent / "out" / "profile_trace.json").read_text())
    assert not (experiment.parent / "out" / "checkpoints").exists()


BAD_INPUT = {
    "unknown key": (["NUM_EPOCS=3"], "unknown key NUM_EPOCS; did you mean NUM_EPOCH?"),
    "wrong type": (["NUM_EPOCH=many"], "NUM_EPOCH = 'many': input should be a valid integer"),
    "missing index": (["DATASETS.0.name=nowhere"], "no training set 'nowhere'"),
    "missing checkpoint": (["SERVER.CHECKPOINT=nowhere.pth"], "server checkpoint not found: "),
    "missing client": (["BACKBONE_RESUME=nowhere.pth"], "client file not found: "),
    "other network": (["SERVER.NAME=ir_18"], "for ir_18 lacks key 'input_layer.0.weight'"),
    "batch too large": (["DATASETS.0.batch_size=13"], "but the set has only 12 images"),
    "no such device": (["DEVICE=abacus"], "device 'abacus' cannot be used"),
    "embedding size": (["EMBEDDING_SIZE=128"], "EMBEDDING_SIZE = 128, but mobilefacenet gives embeddings of 512"),
    "block size": (["SHUFFLE.BLOCK_PX=5"], "SHUFFLE.BLOCK_PX = 5: the map is 28x28"),
}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_gets_a_clear_message(
    case: str, experiment: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments, message = BAD_INPUT[case]
    monkeypatch.setattr(sys, "argv", ["train.py", "--config", str(experiment), *arguments])
    parsed = train_command.parse_arguments()
    with pytest.raises(SystemExit) as stop:
        run_command(lambda: train_command.main(parsed), parsed.traceback)
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert message in said


def test_unreadable_image_is_named_with_its_line(train: Run, tiny_set: TinySet) -> None:
    tiny_set.image(5).write_bytes(b"not an image")
    for workers in (0, 2):
        done = train(f"NUM_WORKERS={workers}", f"MODEL_ROOT=out{workers}")
        assert done.returncode == 2, done.stderr
        expected = f"{tiny_set.index_file}, line 6: {tiny_set.image(5)} cannot be decoded as an image"
        assert f"error: {expected}" in done.stderr
        assert "Traceback" not in done.stderr


def test_label_gap_and_empty_index(train: Run, tiny_set: TinySet) -> None:
    text = tiny_set.index_file.read_text()
    tiny_set.index_file.write_text(text.replace(" 1\n", " 4\n"))
    assert "label 1 is missing" in train().stderr
    tiny_set.index_file.write_text("")
    assert "is empty" in train().stderr


def test_nan_in_weights(train: Run, experiment: Path) -> None:
    path = experiment.parent / "server.pth"
    state = torch.load(path, weights_only=True)
    state["conv1.conv.weight"][0, 0, 0, 0] = float("nan")
    torch.save(state, path)
    done = train()
    assert done.returncode == 2
    assert "conv1.conv.weight holds NaN or infinite values" in done.stderr


def test_changes_of_keys_may_stand_on_both_sides_of_an_option(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["train.py", "NUM_EPOCH=3", "--resume", "SEED=2"])
    parsed = train_command.parse_arguments()
    assert parsed.resume and parsed.overrides == ["NUM_EPOCH=3", "SEED=2"]
