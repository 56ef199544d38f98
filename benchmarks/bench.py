"""Time each part of the toolkit beside a plain baseline that does the same work the published way.

    python benchmarks/bench.py                                   everything, with an IR-101 server
    python benchmarks/bench.py --parts training_step memory --server ir_50 --batch-size 8
    python benchmarks/bench.py --parts obfuscation shuffle metrics --rounds 9

Parts, each as seconds of the baseline (benchmarks/baseline.py) over seconds of the toolkit:
  training_step   a step of train.py from the JPEGs on
  obfuscation     the hybrid at its evaluation settings, one image after the other, both sides on one thread
  shuffle         block channel shuffle, forward and backward
  validation      embedding a set of pairs: clear, obfuscated and compensated under the hybrid
  metrics         10-fold accuracy
  encoding        obfuscated images and 2-bit features to messages, lossless, one thread; baseline: PNG, NumPy archive
  decoding        messages to images and feature values, one thread
and, not as a ratio of times:
  memory          what a first training step adds to the resident memory, each side in a process of its own
  client          milliseconds of the client network for one face, in PyTorch and ONNX Runtime
  matmul          GFLOP/s of the server's forward pass beside those of one large matrix product

Both sides run in turn: a warm-up of each, then --rounds times baseline, toolkit, each with the C library keeping memory
as its own commands have it. Before a part is timed, both must give the same result, or the run ends with exit code 2:
losses within 0.1 %; 99.9 % of the obfuscated pixels within a grey level; embeddings a cosine above 0.99, those of clear
images with --amp none within 1e-5; shuffle, metrics and decoding exactly. Weights and images are random, nothing is
downloaded, everything runs on the processor. Close other programs first.

Prints a table and writes --out: ratios (median, min, max over the rounds), seconds, sizes, memory, matmul, provenance.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import baseline
from benchmarks.message import Messages, client_latency
from torchkit.backbone import Backbone, get_model
from torchkit.client import BlockChannelShuffle, Client, ClientSettings
from torchkit.client.shuffle import draw_key
from torchkit.config import ClientConfig
from torchkit.data.index import read_index
from torchkit.data.validation_set import ValidationSet
from torchkit.obfuscation import RandomObfuscation, obfuscate
from torchkit.server import RECOGNISERS, Recogniser, load_recogniser
from torchkit.system import ProFaceC
from torchkit.task import TrainTask
from torchkit.util.cli import run_command
from torchkit.util.device import amp_dtype, computes_bf16, keep_freed_memory
from torchkit.util.files import atomic_write_text
from torchkit.util.pixels import INPUT_SIZE_PX
from torchkit.util.provenance import provenance
from torchkit.util.seeding import content_stream, stream
from validation.config import ROOT
from validation.measure.evaluate import embed
from validation.protocol.verification import k_fold_accuracy

SERVERS = sorted(set(RECOGNISERS) - {"dlib_resnet"})  # whose weights are no torch file
DEFAULT_OUT = ROOT / "benchmarks" / "out" / "bench.json"  # git ignores the folder
SEED = 1234
KEY_SEED = 7
CLIENT = "mobilefacenet"
MIN_SECONDS = 0.2
"""That a measurement lasts at least."""
FOLDS = 10
LEARNING_RATE = 1e-3
CALIBRATION_IMAGES = 16
SHUFFLE_SHAPE = (64, 56, 56)
DISTINCT_SHARE = 7701 / 12000
"""Distinct images among the rows of LFW's pairs."""

# How far apart the two sides may be.
LOSS_TOLERANCE = 1e-3  # relative
CLEAR_TOLERANCE = 1e-5  # of the values of unit embeddings of clear images
MIN_COSINE = 0.99  # of embeddings of obfuscated images: the toolkit's are rounded to 8 bits, the baseline's not
MAX_GREY_LEVELS, MIN_PIXELS = 1, 0.999  # so many grey levels in at least so many of the pixels


class MismatchError(ValueError):
    """The two sides give different results: their times must not be compared."""


@dataclass(frozen=True)
class Sizes:
    """How much work each part does."""

    server: str = "ir_101"
    """The recogniser."""
    batch_size: int = 16
    """Images of a training step, and of the server's forward pass in `matmul`."""
    rows: int = 60
    """Rows of the validation set, two a pair."""
    pairs: int = 6000
    """Pairs of the 10-fold accuracy."""
    images: int = 16
    """Images obfuscated."""
    shuffle_batch: int = 64
    """Maps shuffled at once."""
    matrix_side: int = 4096
    """Of the matrix product."""
    amp: str = "none"
    """Precision of the toolkit's training step and validation: none or bf16."""
    threads: int = 1
    """Of torch and OpenCV."""


@dataclass(frozen=True)
class Comparison:
    """Two functions that do the same work, and what raises MismatchError when their results differ."""

    baseline: Callable[[], Any]
    ours: Callable[[], Any]
    check: Callable[[Any, Any], None]


def unchecked(theirs: Any, ours: Any) -> None:
    """For sides whose results are compared elsewhere, or are no results."""


Rounds = list[tuple[float, float]]
"""Seconds of baseline and toolkit, round by round."""


# --- timing ---


def note(text: str) -> None:
    """Progress, on stderr."""
    print(text, file=sys.stderr, flush=True)


def seconds_of(work: Callable[[], Any]) -> float:
    """Mean time of `work`, which is repeated until it has filled MIN_SECONDS: a single short one would be noise."""
    start = time.perf_counter()
    for runs in itertools.count(1):
        work()
        elapsed = time.perf_counter() - start
        if elapsed >= MIN_SECONDS:
            return elapsed / runs
    raise AssertionError


def alternate(name: str, pair: Comparison, rounds: int) -> Rounds:
    """Seconds of both sides in turn, after a warm-up whose results are compared.

    Raises:
        MismatchError: the results differ.
    """
    note(f"{name}: warm-up")
    pair.check(pair.baseline(), pair.ours())
    found = []
    for number in range(1, rounds + 1):
        keep_freed_memory(False)  # the toolkit's commands ask for that, the published ones do not
        theirs = seconds_of(pair.baseline)
        keep_freed_memory()
        times = theirs, seconds_of(pair.ours)
        note(f"{name}: round {number}/{rounds}: baseline {times[0]:.4g} s, toolkit {times[1]:.4g} s")
        found.append(times)
    return found


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    """Run with `count` threads of torch and OpenCV."""
    before = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(count)
    cv2.setNumThreads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        cv2.setNumThreads(before[1])


def require_close(name: str, error: float, limit: float) -> None:
    if not error <= limit:
        raise MismatchError(
            f"{name} of toolkit and baseline differ by {error:.3g}, allowed is {limit:g}: one of the two is wrong, "
            "so nothing is timed; `pytest tests/test_benchmarks.py` tells more"
        )


# --- what the parts work on ---


def draw_images(count: int, seed: int) -> np.ndarray:
    """(count, 3, 112, 112) uint8 RGB: coarse colour patches under noise."""
    rng = np.random.default_rng(seed)
    size = (INPUT_SIZE_PX, INPUT_SIZE_PX)
    patches = [cv2.resize(rng.uniform(0, 255, (7, 7, 3)), size, interpolation=cv2.INTER_CUBIC) for _ in range(count)]
    images = np.stack(patches) + rng.normal(0, 12, (count, *size, 3))
    return np.ascontiguousarray(np.clip(images, 0, 255).astype(np.uint8).transpose(0, 3, 1, 2))


def prepare(folder: Path, sizes: Sizes) -> None:
    """Write the server's weights, and a training set that is a single batch: all of it is cached after one step."""
    note(f"preparing random weights of {sizes.server} and {sizes.batch_size} training images")
    torch.manual_seed(SEED)
    torch.save(calibrated(get_model(sizes.server)).state_dict(), folder / "server.pth")
    (folder / "images").mkdir()
    lines = []
    for number, image in enumerate(draw_images(sizes.batch_size, SEED)):
        written = cv2.imwrite(str(folder / "images" / f"{number}.jpg"), image.transpose(1, 2, 0)[..., ::-1])
        assert written
        lines.append(f"{number}.jpg {number}\n")
    (folder / "noise.txt").write_text("".join(lines))


@torch.no_grad()
def calibrated(network: Backbone) -> Backbone:
    """The network with the batch-norm statistics of random images.

    With those of a fresh network, maps fade from layer to layer, and no comparison would see an error.
    """
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = None  # the plain mean
    network.train()(baseline.to_float(draw_images(CALIBRATION_IMAGES, SEED + 1)))
    return network.eval()


def load_server(folder: Path, sizes: Sizes) -> Recogniser:
    """In RGB, for published clients were trained so."""
    return load_recogniser(sizes.server, folder / "server.pth", "rgb")


def published_system(folder: Path, sizes: Sizes) -> baseline.PublishedSystem:
    """The baseline's system around the same server, its client with fresh weights."""
    network = get_model(sizes.server)
    network.load_state_dict(torch.load(folder / "server.pth", weights_only=True))
    key = draw_key(network.tap_shapes()[0], baseline.BLOCK_PX, KEY_SEED, "baseline")
    return baseline.PublishedSystem(network, get_model(CLIENT), key)


# --- the training step ---

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
    """The warm-up is the first epoch: it fills the teacher's cache."""
    check_losses(folder, sizes)
    ours = toolkit_step(make_task(folder, sizes))
    return Comparison(published_step(folder, sizes), ours, unchecked)


# --- the other comparisons ---


def obfuscation(_: Path, sizes: Sizes) -> Comparison:
    batch = draw_images(sizes.images, SEED)
    images = [np.ascontiguousarray(chw.transpose(1, 2, 0)) for chw in batch]

    def theirs() -> np.ndarray:
        with threads(1):
            return baseline.to_uint8(torch.cat([baseline.evaluation_hybrid(chw, SEED) for chw in batch]))

    def ours() -> np.ndarray:
        with threads(1):
            found = [obfuscate(image, "hybrid", content_stream(image, SEED, "hybrid")) for image in images]
        return np.stack(found).transpose(0, 3, 1, 2)

    return Comparison(theirs, ours, _check_pixels)


def _check_pixels(theirs: np.ndarray, ours: np.ndarray) -> None:
    far = np.abs(theirs.astype(int) - ours) > MAX_GREY_LEVELS
    require_close("obfuscation: too large a share of the pixels", float(far.mean()), 1 - MIN_PIXELS)


def shuffle(_: Path, sizes: Sizes) -> Comparison:
    key = draw_key(SHUFFLE_SHAPE, baseline.BLOCK_PX, KEY_SEED, "bench")
    module = BlockChannelShuffle(SHUFFLE_SHAPE, baseline.BLOCK_PX, key)
    maps = torch.randn(sizes.shuffle_batch, *SHUFFLE_SHAPE, requires_grad=True)
    slope = torch.randn(maps.shape)

    def both_ways(forward: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        out = forward(maps)
        return out.detach(), torch.autograd.grad(out, maps, slope)[0]

    return Comparison(
        lambda: both_ways(lambda x: baseline.shuffle(x, key, baseline.BLOCK_PX)),
        lambda: both_ways(module),
        _check_maps,
    )


def _check_maps(theirs: tuple[Tensor, Tensor], ours: tuple[Tensor, Tensor]) -> None:
    for name, a, b in zip(("maps", "gradients"), theirs, ours, strict=True):
        require_close(f"shuffle: the {name}", (a - b).abs().max().item(), 0)


def validation(folder: Path, sizes: Sizes) -> Comparison:
    recogniser = load_server(folder, sizes)
    settings = ClientSettings(
        server_shapes=tuple(recogniser.backbone.tap_shapes()),
        backbone=CLIENT,
        layout="published",
        shuffle_block_px=baseline.BLOCK_PX,
    )
    torch.manual_seed(SEED)
    client = Client(settings, KEY_SEED)
    calibrated(client.backbone)
    system = ProFaceC(client, recogniser).eval()
    published = published_system(folder, sizes).copy_weights(system)
    data = draw_validation_set(sizes.rows)
    rows = data.images[data.rows]

    def ours() -> dict[str, np.ndarray]:
        device = torch.device("cpu")
        amp = amp_dtype(sizes.amp, device)
        found = embed(system, data, ("hybrid",), device, baseline.BATCH_ROWS, num_workers=0, seed=SEED, amp=amp)
        return {condition.name: array for condition, array in found.items()}

    return Comparison(
        lambda: baseline.embed_rows(published, rows, SEED), ours, lambda a, b: _check_embeddings(a, b, sizes.amp)
    )


def draw_validation_set(row_count: int) -> ValidationSet:
    """A set of random images that repeats as many of them as LFW does."""
    distinct = max(1, round(row_count * DISTINCT_SHARE))
    rng = np.random.default_rng(SEED)
    rows = np.concatenate([np.arange(distinct), rng.integers(0, distinct, row_count - distinct)])
    return ValidationSet("noise", draw_images(distinct, SEED + 2), rows, rng.random(row_count // 2) < 0.5)


def _check_embeddings(theirs: dict[str, np.ndarray], ours: dict[str, np.ndarray], amp: str) -> None:
    for name, expected in theirs.items():
        if name == "clear" and amp == "none":
            error = float(np.abs(ours[name] - expected).max())
            require_close("validation: the embeddings of clear images", error, CLEAR_TOLERANCE)
        else:
            error = 1 - float((ours[name] * expected).sum(axis=1).min())
            require_close(f"validation: (as 1 - cosine) the {name} embeddings", error, 1 - MIN_COSINE)


def metrics(_: Path, sizes: Sizes) -> Comparison:
    rng = np.random.default_rng(SEED)
    same = np.arange(sizes.pairs) % 2 == 0
    distances = np.clip(rng.normal(np.where(same, 1.0, 1.6), 0.3), 0, 4)
    return Comparison(
        lambda: baseline.k_fold_accuracy(distances, same, FOLDS),
        lambda: k_fold_accuracy(distances, same, FOLDS),
        _check_accuracy,
    )


def _check_accuracy(theirs: tuple[float, ...], ours: tuple[float, ...]) -> None:
    for name, a, b in zip(("mean accuracy", "deviation", "threshold"), theirs, ours, strict=True):
        require_close(f"metrics: {name}", abs(a - b), 0)


def encoding(_: Path, sizes: Sizes) -> Comparison:
    messages = Messages(draw_images(sizes.images, SEED), SEED)
    return Comparison(one_thread(messages.archive), one_thread(messages.encode), unchecked)


def decoding(_: Path, sizes: Sizes) -> Comparison:
    messages = Messages(draw_images(sizes.images, SEED), SEED)
    return Comparison(one_thread(messages.read_archives), one_thread(messages.decode), _check_messages)


def one_thread(work: Callable[[], Any]) -> Callable[[], Any]:
    def run() -> Any:
        with threads(1):
            return work()

    return run


def _check_messages(theirs: list[list[np.ndarray]], ours: list[list[np.ndarray]]) -> None:
    for expected, found in zip(theirs, ours, strict=True):
        equal = all(np.array_equal(a, b) for a, b in zip(expected, found, strict=True))
        require_close("decoding: (0 equal, 1 not) images and features", float(not equal), 0)


COMPARISONS: dict[str, Callable[[Path, Sizes], Comparison]] = {
    "training_step": training_step,
    "obfuscation": obfuscation,
    "shuffle": shuffle,
    "validation": validation,
    "metrics": metrics,
    "encoding": encoding,
    "decoding": decoding,
}
PARTS = (*COMPARISONS, "memory", "matmul", "client")
NEED_SERVER = frozenset({"training_step", "validation", "memory", "matmul"})


# --- memory ---


def measure_memory(folder: Path, sizes: Sizes) -> dict[str, dict[str, float]]:
    """Bytes that a first training step adds to the resident memory of a fresh process, on either side."""
    toolkit_step(make_task(folder, sizes))()
    theirs, ours = (fresh_process(side, folder, sizes) for side in ("baseline", "toolkit"))
    return {"training_step": {"baseline_bytes": theirs, "ours_bytes": ours, "ratio": ours / theirs}}


def fresh_process(side: str, folder: Path, sizes: Sizes) -> int:
    """`added_by_step` in a new interpreter.

    Raises:
        ValueError: the process was killed, as one is that wants more memory than there is.
    """
    note(f"memory: {side}, in a process of its own")
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        try:
            return pool.submit(added_by_step, side, folder, sizes).result()
        except BrokenProcessPool as error:
            raise ValueError(
                f"memory: the process of the {side} was killed; --batch-size {sizes.batch_size} with {sizes.server} "
                "may need more memory than there is: take a smaller one"
            ) from error


def added_by_step(side: str, folder: Path, sizes: Sizes) -> int:
    """Set up one side, and measure its first step."""
    with threads(sizes.threads):
        step = published_step(folder, sizes) if side == "baseline" else toolkit_step(make_task(folder, sizes))
        return added_bytes(step)


def added_bytes(work: Callable[[], Any]) -> int:
    """How far the peak of the resident memory during `work` lies above what was resident before."""
    with contextlib.suppress(OSError):  # no such file but on Linux: the peak before may then hide a part
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew from what is resident now
    before = peak_bytes()
    work()
    return peak_bytes() - before


def peak_bytes() -> int:
    """Highest resident memory of this process, bytes.

    Linux's getrusage starts a new program at the peak of the one that started it; /proc does not.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    import resource  # not on every system

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


# --- matrix products ---


def measure_matmul(folder: Path, sizes: Sizes, rounds: int) -> dict[str, dict[str, float]]:
    """GFLOP/s of the server's forward pass and of one matrix product, by precision."""
    precisions = {"float32": torch.float32}
    if computes_bf16(torch.device("cpu")):
        precisions["bf16"] = torch.bfloat16
    return {name: _utilisation(name, dtype, folder, sizes, rounds) for name, dtype in precisions.items()}


@torch.inference_mode()
def _utilisation(name: str, dtype: torch.dtype, folder: Path, sizes: Sizes, rounds: int) -> dict[str, float]:
    recogniser = load_server(folder, sizes).to(memory_format=torch.channels_last)  # as TrainTask keeps it
    images = torch.from_numpy(draw_images(sizes.batch_size, SEED))
    operations = sizes.batch_size * count_operations(recogniser, images[:1])
    side = sizes.matrix_side
    a, b = (torch.randn(side, side).to(dtype) for _ in range(2))

    def forward() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            recogniser(images)

    times = np.array(alternate(f"matmul, {name}", Comparison(lambda: a @ b, forward, unchecked), rounds))
    product, server = np.array([2 * side**3, operations]) / times.min(axis=0) / 1e9  # at their best, undisturbed
    return {
        "matrix_gflop_per_s": float(product),
        "server_gflop_per_s": float(server),
        "utilisation_percent": float(100 * server / product),
    }


def count_operations(network: nn.Module, images: Tensor) -> int:
    """Floating-point operations of convolutions and linear layers in one pass: two for each multiply-add."""
    found: list[int] = []

    def count(module: nn.Module, inputs: tuple[Tensor, ...], out: Tensor) -> None:
        weight = module.get_parameter("weight")  # (channels out, what is summed over for one output value ...)
        found.append(2 * out.numel() * weight[0].numel())

    layers = [module for module in network.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    handles = [layer.register_forward_hook(count) for layer in layers]
    network(images)
    for handle in handles:
        handle.remove()
    return sum(found)


def measure_client() -> dict[str, float]:
    """Latency of the client network."""

    def timer(work: Callable[[], Any]) -> float:
        work()
        return min(seconds_of(work) for _ in range(3))

    note("client: PyTorch and ONNX Runtime")
    return client_latency(timer)


# --- the report ---


def summarise(rounds: Sequence[tuple[float, float]]) -> tuple[dict[str, float], dict[str, Any]]:
    """Ratios baseline over toolkit (median, min, max over the rounds), and the seconds behind them."""
    times = np.array(rounds)  # (rounds, 2)
    ratios = times[:, 0] / times[:, 1]
    theirs, ours = np.median(times, axis=0)
    ratio = {"median": float(np.median(ratios)), "min": float(ratios.min()), "max": float(ratios.max())}
    return ratio, {"baseline": float(theirs), "ours": float(ours), "rounds": times.tolist()}


def run_parts(parts: Sequence[str], sizes: Sizes, rounds: int, folder: Path) -> dict[str, Any]:
    """Everything that `--out` receives, but the provenance."""
    report: dict[str, Any] = {"ratios": {}, "seconds": {}, "sizes": {**asdict(sizes), "rounds": rounds}}
    report |= {"memory": {}, "matmul": {}, "client": {}}
    if NEED_SERVER & set(parts):
        prepare(folder, sizes)
    for name in parts:
        if name in COMPARISONS:
            found = alternate(name, COMPARISONS[name](folder, sizes), rounds)
            report["ratios"][name], report["seconds"][name] = summarise(found)
        elif name == "memory":
            report["memory"] = measure_memory(folder, sizes)
        elif name == "client":
            report["client"] = measure_client()
        else:
            report["matmul"] = measure_matmul(folder, sizes, rounds)
    return report


def format_report(report: dict[str, Any]) -> str:
    """The report as a table."""
    lines = []
    if report["ratios"]:
        lines.append(f"{'part':<15}{'baseline s':>12}{'toolkit s':>12}{'ratio':>9}{'min':>9}{'max':>9}")
    for name, ratio in report["ratios"].items():
        seconds = report["seconds"][name]
        numbers = "".join(f"{ratio[key]:>9.2f}" for key in ("median", "min", "max"))
        lines.append(f"{name:<15}{seconds['baseline']:>12.4g}{seconds['ours']:>12.4g}{numbers}")
    lines += [
        f"{name}: {report['sizes']['images'] / report['seconds'][name]['ours']:.0f} faces a second on one thread"
        for name in ("encoding", "decoding")
        if name in report["ratios"]
    ]
    if client := report["client"]:
        milliseconds = f"PyTorch {client['torch_ms']:.1f} ms, ONNX Runtime {client['onnxruntime_ms']:.1f} ms"
        lines.append(f"client, one face: {milliseconds}")
    for name, memory in report["memory"].items():
        theirs, ours = (memory[key] / 1e6 for key in ("baseline_bytes", "ours_bytes"))
        lines.append(f"memory of {name}: baseline {theirs:.0f} MB, toolkit {ours:.0f} MB, ratio {memory['ratio']:.3f}")
    for name, speed in report["matmul"].items():
        lines.append(
            f"{name}: server {speed['server_gflop_per_s']:.1f} GFLOP/s, matrix product "
            f"{speed['matrix_gflop_per_s']:.1f} GFLOP/s, utilisation {speed['utilisation_percent']:.1f} %"
        )
    return "\n".join(lines)


# --- the command ---


def parse_arguments() -> argparse.Namespace:
    summary, _, details = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        description=summary, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    size = Sizes(amp="bf16" if computes_bf16(torch.device("cpu")) else "none", threads=torch.get_num_threads())

    def number(name: str, value: int, help: str) -> None:
        parser.add_argument(f"--{name}", type=int, default=value, metavar="N", help=f"{help} ({value})")

    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, metavar="PART", help="which (all)")
    number("rounds", 3, "times that each side is timed, after a warm-up")
    parser.add_argument("--server", choices=SERVERS, default=size.server, help=f"recogniser ({size.server})")
    number("batch-size", size.batch_size, "images of a training step")
    number("rows", size.rows, "rows of the validation set, two a pair")
    number("pairs", size.pairs, "pairs of the 10-fold accuracy")
    number("images", size.images, "images obfuscated")
    number("shuffle-batch", size.shuffle_batch, "maps of 64x56x56 values shuffled at once")
    number("matrix-side", size.matrix_side, "rows and columns of the matrix product")
    number("threads", size.threads, "threads of torch and OpenCV")
    parser.add_argument(
        "--amp", choices=("none", "bf16"), default=size.amp,
        help="precision of the toolkit's training step and validation; the baseline's is float32 (bf16 if the CPU "
        f"has it: here {size.amp})",
    )  # fmt: skip
    parser.add_argument(
        "--out", type=Path, default=DEFAULT_OUT, metavar="FILE", help="JSON (benchmarks/out/bench.json)"
    )
    parser.add_argument("--traceback", action="store_true", help="show where in the code an error arose")
    return parser.parse_args()


def sizes_from(arguments: argparse.Namespace) -> Sizes:
    """The options as sizes.

    Raises:
        ValueError: a number that is out of range.
    """
    sizes = Sizes(**{name: getattr(arguments, name) for name in asdict(Sizes())})
    lowest = {"batch_size": 2, "rows": 2, "pairs": FOLDS}  # one class, no pair or an empty fold compare nothing
    for name, value in {**asdict(sizes), "rounds": arguments.rounds}.items():
        least = lowest.get(name, 1)
        if isinstance(value, int) and value < least:
            raise ValueError(f"--{name.replace('_', '-')} {value}: expected at least {least}")
    if sizes.rows % 2:
        raise ValueError(f"--rows {sizes.rows}: expected an even number, for two rows are a pair")
    return sizes


def main(arguments: argparse.Namespace) -> None:
    sizes = sizes_from(arguments)
    parts = [name for name in PARTS if name in arguments.parts]
    with tempfile.TemporaryDirectory(prefix="bench_", ignore_cleanup_errors=True) as folder, threads(sizes.threads):
        report = run_parts(parts, sizes, arguments.rounds, Path(folder))
        report["provenance"] = provenance()
    atomic_write_text(arguments.out, json.dumps(report, indent=2, allow_nan=False) + "\n")
    print(format_report(report))
    print(f"wrote {arguments.out}")


if __name__ == "__main__":
    parsed = parse_arguments()
    run_command(lambda: main(parsed), parsed.traceback)
