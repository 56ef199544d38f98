"""benchmarks/: both sides of every comparison do the same work, and bench.py reports what it measured."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from benchmarks import baseline, bench, harness, inputs
from benchmarks.harness import Comparison, MismatchError, Sizes
from benchmarks.parts import memory
from benchmarks.parts.training import PUBLISHED_RECIPE, check_losses, copy_training, make_task, published_training
from benchmarks.report import summarise
from torchkit.client import BlockChannelShuffle
from torchkit.client.shuffle import draw_key
from torchkit.data.training_set import Sample
from torchkit.obfuscation import Strength, assign_cells, obfuscate
from torchkit.task import TrainTask
from torchkit.util.cli import run_command
from validation.protocol.verification import k_fold_accuracy

BENCH = Path(bench.__file__)
SMALL = Sizes(server="mobilefacenet", batch_size=2, rows=6, pairs=50, images=2, shuffle_batch=2)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bench")
    inputs.prepare(folder, SMALL)
    return folder


def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, str(BENCH), *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment, timeout=300)


# --- the baseline gives the toolkit's results ---

STRENGTHS = {
    "evaluation": Strength(),
    "weak": Strength(sigma_px=2.0, median_kernel_px=7, blocks=(37, 37), grid=(2, 2)),
    "strong": Strength(sigma_px=8.0, median_kernel_px=19, blocks=(10, 14), grid=(5, 3)),
}


@pytest.mark.parametrize("strength", STRENGTHS.values(), ids=STRENGTHS)
def test_float_filters_are_the_obfuscations(make_image: Callable[[int], np.ndarray], strength: Strength) -> None:
    image = make_image(3)
    floats_in = baseline.to_float(image.transpose(2, 0, 1)[None])
    filtered = {
        "gaussian": baseline.gaussian(floats_in, strength.sigma_px),
        "median": baseline.median(floats_in, strength.median_kernel_px),
        "pixelate": baseline.pixelate(floats_in, strength.blocks),
        "hybrid": baseline.hybrid(floats_in, strength, assign_cells(strength.grid, np.random.default_rng(5))),
    }
    for kind, floats in filtered.items():
        expected = obfuscate(image, kind, np.random.default_rng(5), strength)
        difference = np.abs(baseline.to_uint8(floats)[0].transpose(1, 2, 0).astype(int) - expected)
        assert difference.max() <= 1, kind
        assert not np.array_equal(expected, image)


def test_loop_shuffle_is_the_modules() -> None:
    shape, block_px = (6, 8, 12), 4
    key = draw_key(shape, block_px, seed=1, name="test")
    ours, theirs = (torch.arange(2.0 * 6 * 8 * 12).view(2, *shape).requires_grad_() for _ in range(2))
    slope = torch.randn(2, *shape)
    out = baseline.shuffle(theirs, key, block_px)
    assert torch.equal(out, BlockChannelShuffle(shape, block_px, key)(ours))
    assert torch.equal(out[1, 3, 4:, 8:], theirs[1, key[5, 3], 4:, 8:])  # block 5: second row, third column
    (out * slope).sum().backward()
    (BlockChannelShuffle(shape, block_px, key)(ours) * slope).sum().backward()
    assert ours.grad is not None and theirs.grad is not None
    assert torch.equal(ours.grad, theirs.grad)


@pytest.mark.parametrize("pairs", [50, 57])  # 57 leaves folds of two sizes
@pytest.mark.parametrize("ties", [False, True])
def test_loop_over_thresholds_is_the_protocol(pairs: int, ties: bool) -> None:
    rng = np.random.default_rng(pairs)
    same = rng.random(pairs) < 0.5
    distances = np.clip(rng.normal(np.where(same, 1.0, 1.6), 0.4), 0, 4)
    if ties:
        distances = np.round(distances, 1)
    assert baseline.k_fold_accuracy(distances, same, 10) == k_fold_accuracy(distances, same, 10)


def test_training_step_has_the_toolkits_losses_and_gradients(prepared: Path) -> None:
    task, training, batch = both_trainings(prepared)
    ours = task.losses(batch)
    theirs = training.losses(baseline.to_float(batch.clear), baseline.to_float(batch.obfuscated), batch.label)
    for name, loss in theirs.items():
        assert ours[name].item() == pytest.approx(loss.item(), rel=1e-4), name
        assert loss.item() > 0
    ours["loss"].backward()
    (theirs["margin_softmax"] + theirs["distillation"]).backward()
    client, system = task.system.client, training.system
    used = nn.ModuleList(module for segment in system.backbone.segments()[:-1] for module in segment)
    sides = {
        "interfaces": (gradient(client.interfaces), gradient(system.interfaces)),
        "compensation": (gradient(task.system.server.compensation), gradient(system.weights)),
        "head": (gradient(task.heads), training.centres.grad),
        "backbone": (gradient(client.backbone), gradient(used)),  # but what makes an embedding no client needs
    }
    for name, (a, b) in sides.items():
        assert b is not None
        assert (a - b.flatten()).norm() <= 1e-2 * b.norm(), name  # a batch of two magnifies what float32 rounds


def test_published_training_step_freezes_nothing_but_moves_only_the_client(prepared: Path) -> None:
    _, training, batch = both_trainings(prepared)
    system = training.system
    network = {name: tensor.clone() for name, tensor in system.network.state_dict().items()}
    weights = [weight.detach().clone() for weight in system.weights]
    training.step(baseline.to_float(batch.clear), baseline.to_float(batch.obfuscated), batch.label)
    assert all(gradient(module).norm() > 0 for module in system.network.modules() if list(module.parameters()))
    for name, tensor in system.network.state_dict().items():
        assert torch.equal(tensor, network[name]), name
    assert not any(torch.equal(a, b) for a, b in zip(weights, system.weights, strict=True))


def both_trainings(folder: Path) -> tuple[TrainTask, baseline.PublishedTraining, Sample]:
    """Both sides with the same weights, and a batch."""
    torch.manual_seed(3)
    task = make_task(folder, SMALL, PUBLISHED_RECIPE)
    training = published_training(folder, SMALL)
    copy_training(task, training)
    return task, training, next(iter(task.batches(0, 0)))


def gradient(module: nn.Module) -> Tensor:
    """Of all parameters, in one row."""
    assert all(parameter.grad is not None for parameter in module.parameters())
    return torch.cat([parameter.grad.flatten() for parameter in module.parameters() if parameter.grad is not None])


# --- a difference stops the benchmark ---


def test_folded_server_has_the_same_losses(tmp_path: Path) -> None:
    """An IR server, whose batch norms the toolkit folds."""
    sizes = Sizes(server="ir_18", batch_size=2)
    inputs.prepare(tmp_path, sizes)
    check_losses(tmp_path, sizes)


@pytest.mark.parametrize("part", ["obfuscation", "shuffle", "validation", "metrics"])
def test_part_compares_its_results(prepared: Path, part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = bench.COMPARISONS[part](prepared, SMALL)
    ours = pair.ours()
    pair.check(pair.baseline(), ours)
    with monkeypatch.context() as patch:
        break_baseline(patch, part)
        theirs = pair.baseline()
    with pytest.raises(MismatchError, match=f"^{part}: .* differ by"):
        pair.check(theirs, ours)


def break_baseline(patch: pytest.MonkeyPatch, part: str) -> None:
    """Make one small thing wrong."""
    right = baseline.gaussian
    if part == "obfuscation":
        patch.setattr(baseline, "gaussian", lambda images, sigma_px: right(images, 0.9 * sigma_px))
    elif part == "metrics":
        patch.setattr(baseline, "_accuracy", lambda threshold, distances, same: np.mean((distances > 1.3) == same))
    else:
        patch.setattr(baseline, "shuffle", lambda features, key, block_px: features)


def test_losses_are_compared(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_losses(prepared, SMALL)
    monkeypatch.setattr(baseline, "MARGIN_RAD", 0.51)
    with pytest.raises(MismatchError, match=r"^training_step: the margin_softmax losses"):
        check_losses(prepared, SMALL)


def test_nan_is_a_difference() -> None:
    with pytest.raises(MismatchError, match="differ by nan"):
        harness.require_close("metrics: x", float("nan"), 1.0)


# --- what is measured ---


def test_sides_alternate_after_a_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "MIN_SECONDS", 0.0)
    calls: list[str] = []
    pair = Comparison(lambda: calls.append("b"), lambda: calls.append("o"), lambda b, o: calls.append("check"))
    assert len(harness.alternate("x", pair, 3)) == 3
    assert calls == ["b", "o", "check", *"bobobo"]


def test_ratios_are_those_of_the_rounds() -> None:
    ratio, seconds = summarise([(4.0, 2.0), (9.0, 1.0), (6.0, 2.0)])
    assert ratio == {"median": 3.0, "min": 2.0, "max": 9.0}
    assert (seconds["baseline"], seconds["ours"]) == (6.0, 2.0)


def test_set_repeats_images_as_lfw_does() -> None:
    data = inputs.draw_validation_set(120)
    assert (len(data.rows), len(data.same)) == (120, 60)
    assert sorted(set(data.rows)) == list(range(77))  # 120 * 7,701 / 12,000
    assert len({image.tobytes() for image in data.images}) == len(data.images) == 77


def test_added_memory_is_the_peak_above_what_was_there() -> None:
    size = 200_000_000
    there = np.ones(size, np.uint8)

    def work() -> None:
        np.ones(size, np.uint8)  # given back at once, but the peak stays

    assert memory.added_bytes(work) == pytest.approx(size, rel=0.05)
    assert len(there) == size


# --- the command ---


def test_bench_writes_its_report_from_any_folder(tmp_path: Path) -> None:
    options = ["--server", "mobilefacenet", "--batch-size", "2", "--rows", "4", "--pairs", "50", "--rounds", "1"]
    sizes = ["--images", "2", "--shuffle-batch", "2", "--matrix-side", "256"]
    done = run(*options, *sizes, "--out", "new/bench.json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "new" / "bench.json").read_text())
    parts = set(bench.COMPARISONS)
    assert set(report) == {"ratios", "seconds", "sizes", "memory", "matmul", "client", "provenance"}
    assert set(report["ratios"]) == set(report["seconds"]) == parts
    for name, ratio in report["ratios"].items():
        assert 0 < ratio["min"] == ratio["median"] == ratio["max"]
        assert report["seconds"][name]["baseline"] / report["seconds"][name]["ours"] == pytest.approx(ratio["median"])
    assert report["sizes"]["batch_size"] == 2 and report["sizes"]["rounds"] == 1
    memory = report["memory"]["training_step"]
    assert memory["ratio"] == pytest.approx(memory["ours_bytes"] / memory["baseline_bytes"])
    assert min(memory.values()) > 0
    assert report["matmul"]["float32"]["utilisation_percent"] > 0
    assert report["provenance"]["threads"] == 1
    assert all(part in done.stdout for part in [*parts, "memory", "bench.json"])
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["bench.json"]


def test_parts_choose_what_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "b.json"
    monkeypatch.setattr(sys, "argv", f"bench.py --parts metrics --pairs 50 --rounds 2 --out {out}".split())
    bench.main(bench.parse_arguments())
    report = json.loads(out.read_text())
    assert list(report["ratios"]) == ["metrics"] and len(report["seconds"]["metrics"]["rounds"]) == 2
    assert report["memory"] == report["matmul"] == {}


BAD_OPTIONS = {
    "no round": (["--rounds", "0"], "--rounds: 0: expected a whole number of at least 1"),
    "one image": (["--batch-size", "1"], "--batch-size: 1: expected a whole number of at least 2"),
    "half a pair": (["--rows", "7"], "--rows 7: expected an even number"),
    "an empty fold": (["--pairs", "9"], "--pairs: 9: expected a whole number of at least 10"),
}


@pytest.mark.parametrize(("options", "message"), BAD_OPTIONS.values(), ids=BAD_OPTIONS)
def test_bad_numbers_are_refused(
    options: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["bench.py", *options])
    with pytest.raises(SystemExit) as ended:
        run_command(lambda: bench.main(bench.parse_arguments()), show_traceback=False)
    assert ended.value.code == 2 and message in capsys.readouterr().err
