"""Training and validation in two processes: the numbers of one, checkpoints of either, and ends without a hang."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from conftest import draw_face, write_jpeg
from parallel_training import EMBEDDING_SIZE, Tiny, small_step, train, with_tiny

from torchkit.backbone import get_model
from torchkit.config import load_config
from torchkit.data.sampler import BranchBatchSampler
from torchkit.data.training_set import SampleKey
from torchkit.data.validation_set import write_validation_set
from torchkit.task import TrainTask
from torchkit.task.base import make_optimizer
from torchkit.util.launch import LOST, ErrorBoard, launched, own_gpu
from validation import val_main

ROOT = Path(__file__).resolve().parents[2]
TORCHRUN = [
    sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--rdzv-backend=c10d",
    "--rdzv-endpoint=localhost:0",
]  # fmt: skip
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
PATIENCE_SECONDS = 400
IDENTITIES, IMAGES = 3, 4
COMPRESSED = {
    "OPTIMIZER": "sgd", "LRS": [0.01, 0.001], "ACCUMULATE": 2, "CLIP_NORM": 20, "HEAD_NAME": "CurricularFace",
    "QUANTIZE": {"BITS": [8, 4, 2, 1], "START_EPOCH": 0.5, "RAMP_EPOCHS": 1},
    "PRUNE": {"CHANNELS": 0.25, "VALUES": [0.5, 0.5, 0.25, 0], "RAMP_EPOCHS": 2},
    "DISTILLATION": {"FORM": "cosine", "WEIGHT": 10, "MAP_WEIGHT": 1e-7, "DDL_WEIGHT": 1},
    "ADVERSARY": {"WEIGHT": 1, "WIDTH": 2},
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def tiny_is_known() -> Iterator[None]:
    with with_tiny():
        yield


def write_experiment(home: Path, tiny: bool, **more: Any) -> Path:
    """A YAML file with paths relative to itself: 2 epochs on two branches, 6 images a batch.

    With `tiny` its networks are those of tests/parallel_training.py, which train.py does not know.
    """
    network = "tiny" if tiny else "mobilefacenet"
    torch.manual_seed(0)
    torch.save(Tiny().state_dict() if tiny else get_model("mobilefacenet").state_dict(), home / "server.pth")
    (home / "index").mkdir()
    lines = []
    for identity in range(IDENTITIES):
        (home / "images" / str(identity)).mkdir(parents=True)
        for number in range(IMAGES):
            name = f"{identity}/{number}.jpg"
            write_jpeg(home / "images" / name, draw_face(identity * IMAGES + number))
            lines.append(f"{name} {identity}\n")
    (home / "index" / "all.txt").write_text("".join(lines))
    (home / "index" / "two.txt").write_text("".join(lines[: 2 * IMAGES]))
    values = {
        "DATA_ROOT": "images", "INDEX_ROOT": "index", "MODEL_ROOT": "out", "LOG_ROOT": "logs", "LOGS": "logs",
        "DATASETS": [
            {"name": "all", "batch_size": 4},
            {"name": "two", "batch_size": 2, "scale": 32, "margin": 0.1, "weight": 0.5},
        ],
        "NUM_EPOCH": 2, "NUM_WORKERS": 0, "SCHEDULE": "cosine", "SHUFFLE": {"BLOCK_PX": 14, "SEED": 7},
        "BACKBONE_NAME": network,
        "CLIENT": {"LAYOUT": "native"}, "SERVER": {"NAME": network, "CHECKPOINT": "server.pth"}, **more,
    }  # fmt: skip
    path = home / "experiment.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def write_recogniser_experiment(client: Path) -> Path:
    """Beside the client's file: the same data, and what a recogniser's training reads of the rest."""
    values = yaml.safe_load(client.read_text())
    for key in ("CLIENT", "SERVER", "SHUFFLE", "QUANTIZE", "PRUNE", "DISTILLATION", "ADVERSARY"):
        values.pop(key, None)
    values |= {"TASK": "server", "NUM_EPOCH": 1, "ACCUMULATE": 1, "HEAD_NAME": "AdaFace"}
    path = client.with_name("recogniser.yaml")
    path.write_text(yaml.safe_dump(values))
    return path


def torchrun(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [*TORCHRUN, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=PATIENCE_SECONDS)


def own_lines(done: subprocess.CompletedProcess[str]) -> list[str]:
    """What the processes said themselves of an error."""
    return [line for line in done.stderr.splitlines() if "error: " in line]


def checkpoint_of(folder: Path, step: int) -> Path:
    return folder / "checkpoints" / f"step_{step:08d}.pt"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of one experiment in folders named after the processes of its first and its second epoch.

    "server_1", "server_2": a recogniser's training in one and two processes; small_0.pt, small_1.pt: see `small_step`.
    """
    home = tmp_path_factory.mktemp("runs")
    configs = {"client": write_experiment(home, tiny=True, **COMPRESSED)}
    configs["server"] = write_recogniser_experiment(configs["client"])

    def job(folder: str, task: str = "client", resume: bool = False) -> dict[str, Any]:
        overrides = [f"MODEL_ROOT={home / folder}"]
        return {"config": str(configs[task]), "task": task, "resume": resume, "overrides": overrides}

    def train_here(job: dict[str, Any]) -> None:
        train(Path(job["config"]), job["task"], job["resume"], job["overrides"])

    train_here(job("11"))
    train_here(job("server_1", task="server"))
    after_first_epoch(home / "11", home / "12")
    todo = [job("22"), job("12", resume=True), job("server_2", task="server")]
    (home / "jobs.json").write_text(json.dumps({"train": todo}))
    done = torchrun(ROOT / "tests" / "parallel_training.py", home / "jobs.json")
    assert done.returncode == 0, done.stderr
    after_first_epoch(home / "22", home / "21")
    train_here(job("21", resume=True))
    return home


def after_first_epoch(run: Path, copy: Path) -> None:
    """A run that ended after its first epoch, of 2 steps."""
    (copy / "checkpoints").mkdir(parents=True)
    shutil.copy(checkpoint_of(run, 2), copy / "checkpoints")


def curve(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "curve.jsonl").read_text().splitlines()]


def same_curves(found: list[dict[str, float]], expected: list[dict[str, float]]) -> None:
    assert len(found) == len(expected)
    for own, other in zip(found, expected, strict=True):
        assert own.keys() == other.keys()
        assert own == pytest.approx(other, rel=1e-9)


def test_loss_curve_is_that_of_one_process(runs: Path) -> None:
    whole = curve(runs / "11")
    terms = {"margin_softmax", "distillation", "map_error", "ddl"}
    assert set(whole[0]) == {"loss", *terms, "decoder_O_e", "decoder_O_e_Z", "excess"}
    assert len({step["loss"] for step in whole}) == 4
    same_curves(curve(runs / "22"), whole)


@pytest.mark.parametrize("name", ["12", "21"])
def test_resuming_in_another_number_of_processes_changes_nothing(runs: Path, name: str) -> None:
    same_curves(curve(runs / name), curve(runs / "11")[2:])


@pytest.mark.parametrize("name", ["22", "12", "21"])
def test_final_checkpoints_hold_the_same(runs: Path, name: str) -> None:
    expected, found = (torch.load(checkpoint_of(runs / run, 4), weights_only=True) for run in ("11", name))
    compare(found["modules"], expected["modules"])
    compare(found["optimizer"]["state"], expected["optimizer"]["state"])
    compare(found["adversary"], expected["adversary"])
    heads = found["modules"]["heads"]
    assert (heads["0.weight"].shape, heads["1.weight"].shape) == ((3, EMBEDDING_SIZE), (2, EMBEDDING_SIZE))
    assert not all(found["modules"]["client"]["pruners.1.keep"])
    assert found["modules"]["client"]["quantisers.1.batches"] > 0


def compare(found: Any, expected: Any, name: str = "") -> None:
    """Nested containers hold the same but for rounding."""
    if isinstance(expected, dict | list):
        keys = expected.keys() if isinstance(expected, dict) else range(len(expected))
        assert len(found) == len(expected), name
        for key in keys:
            compare(found[key], expected[key], f"{name}.{key}")
    elif isinstance(expected, torch.Tensor):
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-8, msg=lambda text: f"{name}: {text}")
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, rel=1e-6, abs=1e-9), name
    else:
        assert found == expected, name


def test_client_files_hold_the_same(runs: Path) -> None:
    one, two = (torch.load(runs / name / "client.pth", weights_only=True) for name in ("11", "22"))
    compare(two, one)


def test_a_recogniser_trains_in_two_processes(runs: Path) -> None:
    same_curves(curve(runs / "server_2"), curve(runs / "server_1"))
    one, two = (torch.load(runs / f"server_{count}" / "recogniser.pth", weights_only=True) for count in (1, 2))
    compare(two, one)


def test_layers_and_gradients_are_those_of_the_whole_batch(runs: Path) -> None:
    first, second = (torch.load(runs / f"small_{rank}.pt", weights_only=True) for rank in range(2))
    expected = small_step(0.5)
    for name, value in expected.items():
        if name in ("output", "evaluated"):
            torch.testing.assert_close(torch.stack([first[name], second[name]], dim=1).flatten(0, 1), value)
        else:
            torch.testing.assert_close(first[name], value, msg=name)
            assert torch.equal(first[name], second[name]), name
    assert "unused.weight" not in expected
    gradients = [value for name, value in expected.items() if name.startswith(("conv.", "linear.", "norm.weight"))]
    assert all((value != 0).any() for value in gradients)


def test_main_process_alone_writes(runs: Path) -> None:
    log = (runs / "logs" / "train.log").read_text()
    for folder in ("11", "12", "21", "22"):
        assert log.count(f"checkpoint after 4 steps: {checkpoint_of(runs / folder, 4)}") == 1
        assert log.count(f"client after 4 steps: {runs / folder / 'client.pth'}") == 1
    assert len(list((runs / "logs").glob("events*"))) == 6


# Commands


@pytest.fixture
def experiment(tmp_path: Path) -> Path:
    return write_experiment(tmp_path, tiny=False)


def test_a_killed_process_ends_the_run(tmp_path: Path) -> None:
    config, out = write_experiment(tmp_path, tiny=True), tmp_path / "out"
    overrides = ["NUM_EPOCH=1000", "SAVE_EPOCHS=[]", "SAVE_MINUTES=0.0001"]
    job = {"config": str(config), "task": "client", "resume": False, "overrides": overrides}
    (tmp_path / "jobs.json").write_text(json.dumps({"train": [job]}))
    command = [*TORCHRUN, str(ROOT / "tests" / "parallel_training.py"), str(tmp_path / "jobs.json")]
    with subprocess.Popen(command, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True) as run:
        try:
            wait_until(lambda: len(list(out.glob("checkpoints/step_*.pt"))) > 1 or run.poll() is not None)
            assert run.poll() is None
            os.kill(process_of_rank(run.pid, 1), signal.SIGKILL)
            said = run.communicate(timeout=60)[1]
        finally:
            run.kill()
    assert run.returncode != 0
    assert "SIGKILL" in said
    own = [line for line in said.splitlines() if "error: " in line]  # torchrun may be faster, and stop rank 0 first
    assert len(own) <= 1
    assert all(f"error: rank 0 of 2: {LOST}" in line for line in own)
    assert not list(out.rglob(".*"))  # nothing half-written


def wait_until(happened: Any) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def process_of_rank(parent: int, rank: int) -> int:
    """The child of torchrun that has this rank."""
    for entry in Path("/proc").glob("[0-9]*/environ"):
        try:
            environment = entry.read_bytes().split(b"\0")
            ancestor = int((entry.parent / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        if ancestor == parent and f"RANK={rank}".encode() in environment:
            return int(entry.parent.name)
    raise AssertionError("no such process")


def test_an_error_of_one_process_is_told_once_with_its_rank(experiment: Path) -> None:
    for name in ("0", "1", "2"):  # of every identity, so that whoever draws one names it
        (experiment.parent / "images" / name / "0.jpg").write_bytes(b"not an image")
    done = torchrun(ROOT / "train.py", "--config", experiment)
    assert done.returncode != 0
    said = own_lines(done)
    assert 1 <= len(said) <= 2, done.stderr  # both may meet an image in the same step, each another
    assert all("rank " in line and "cannot be decoded as an image" in line for line in said)


def test_validation_gives_the_figures_of_one_process(
    tmp_path: Path, experiment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = TrainTask(load_config(experiment)).save_client("client.pth")
    images = np.stack([draw_face(seed).transpose(2, 0, 1) for seed in range(100, 111)])  # 11: no even number
    rows = np.random.default_rng(0).integers(0, 11, 40)
    rows[1::4] = rows[::4]
    write_validation_set(tmp_path / "sets", "tiny", images, np.arange(20) % 2 == 0, rows)
    options = ["--backbone-resume", client, "--data-root", tmp_path / "sets", "--datasets", "tiny"]
    options += ["--obfuscations", "hybrid", "--num-workers", "0", "--resamples", "20", "--device", "cpu"]
    done = torchrun(ROOT / "validation" / "val_main.py", *options, "--out", tmp_path / "two", "--batch-size", "3")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("wrote ") == 1
    monkeypatch.setattr(sys, "argv", ["val_main.py", *map(str, options), "--out", str(tmp_path / "one")])
    val_main.main(val_main.parse_arguments())
    two, one = (json.loads((tmp_path / name / "results.json").read_text()) for name in ("two", "one"))
    assert len(one["rows"]) == 3
    assert one["rows"][0]["accuracy"] < 1
    compare([without_times(row) for row in two["rows"]], [without_times(row) for row in one["rows"]])
    assert sorted(path.name for path in (tmp_path / "two").iterdir()) == sorted(
        path.name for path in (tmp_path / "one").iterdir()
    )


def without_times(row: dict[str, Any]) -> dict[str, Any]:
    """A row of results.json without latencies, which no two runs share."""
    return {key: value for key, value in row.items() if not key.endswith("latency_ms")}


# Parts


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_processes_share_out_the_batch_of_one(processes: int) -> None:
    def batches(rank: int, count: int) -> list[list[SampleKey]]:
        sampler = BranchBatchSampler([20, 13], [6, 6], 5, rank, count)
        sampler.start_at(2, 1)
        return list(sampler)

    whole, parts = batches(0, 1), [batches(rank, processes) for rank in range(processes)]
    assert len(whole) == 2
    for step, batch in enumerate(whole):
        mine = [part[step] for part in parts]
        assert [key for turn in zip(*mine, strict=True) for key in turn] == batch
        for own in mine:
            assert [key.branch for key in own] == [0] * (6 // processes) + [1] * (6 // processes)


def test_a_batch_that_cannot_be_shared_out_is_refused() -> None:
    with pytest.raises(ValueError, match=r"DATASETS\.1\.batch_size = 3 .* take a multiple of 2"):
        BranchBatchSampler([20, 13], [6, 3], 5, 0, 2)


def tell(texts: list[str], wait_seconds: float, capsys: pytest.CaptureFixture[str]) -> str:
    """What is printed when each process meets its error."""
    store = torch.distributed.HashStore()
    boards = [ErrorBoard(store, rank, len(texts)) for rank in range(len(texts))]
    threads = [
        threading.Thread(target=board.tell, args=(text, wait_seconds))
        for board, text in zip(boards, texts, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert boards[0].told()
    return capsys.readouterr().err


def test_an_error_of_all_processes_is_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert tell(["no such key"] * 3, 10, capsys) == "error: no such key\n"


def test_errors_of_some_processes_are_told_with_their_ranks(capsys: pytest.CaptureFixture[str]) -> None:
    said = tell(["one image", "another"], 0.2, capsys)
    assert sorted(said.splitlines()) == ["error: rank 0 of 2: one image", "error: rank 1 of 2: another"]


def test_half_an_environment_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert launched() == 1
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(ValueError, match=r"WORLD_SIZE = '2' .* LOCAL_RANK, MASTER_ADDR, MASTER_PORT is not set"):
        launched()


def test_a_process_needs_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "WORLD_SIZE": "2",
        "RANK": "1",
        "LOCAL_RANK": "1",
        "MASTER_ADDR": "a",
        "MASTER_PORT": "1",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ValueError, match="LOCAL_RANK = 1, but there are 1 GPUs"):
        own_gpu(torch.device("cuda"))
    with pytest.raises(ValueError, match="device cuda:0 with 2 processes: each takes a GPU of its own"):
        own_gpu(torch.device("cuda:0"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert own_gpu(torch.device("cuda")) == 1


def test_first_gradient_in_a_later_step_starts_the_momentum(experiment: Path) -> None:
    """PyTorch's fused SGD fails where some parameters have a momentum and others do not yet."""
    config = load_config(experiment, ["OPTIMIZER=sgd", "LRS=[0.5, 0.5]", "WEIGHT_DECAY=0"])
    layers = [torch.nn.Linear(2, 1, bias=False) for _ in range(2)]
    optimizer = make_optimizer(config, layers)
    before = [layer.weight.detach().clone() for layer in layers]
    for step in range(2):
        for layer in layers[: step + 1]:
            layer.weight.grad = torch.ones(1, 2)
        optimizer.step()
    torch.testing.assert_close(layers[0].weight.detach(), before[0] - 0.5 * (1 + 1.9))
    torch.testing.assert_close(layers[1].weight.detach(), before[1] - 0.5)
