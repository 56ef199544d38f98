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

import json
import sys
import tempfile
from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.harness import Comparison, Sizes, alternate, threads
from benchmarks.inputs import prepare
from benchmarks.parts.memory import measure_memory
from benchmarks.parts.messages import decoding, encoding
from benchmarks.parts.networks import measure_client, measure_matmul
from benchmarks.parts.obfuscation import obfuscation
from benchmarks.parts.shuffle import shuffle
from benchmarks.parts.training import training_step
from benchmarks.parts.verification import FOLDS, metrics, validation
from benchmarks.report import format_report, summarise
from torchkit.backbone import NETWORKS
from torchkit.util.cli import CommandParser, integer_from, run_command
from torchkit.util.device import computes_bf16
from torchkit.util.files import atomic_write_text
from torchkit.util.provenance import provenance
from validation.config import ROOT

SERVERS = sorted(set(NETWORKS) - {"dlib_resnet"})  # whose weights are no torch file
DEFAULT_OUT = ROOT / "benchmarks" / "out" / "bench.json"  # git ignores the folder

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


def run_parts(parts: Sequence[str], sizes: Sizes, rounds: int, folder: Path) -> dict[str, Any]:
    """Everything that `--out` receives, but the provenance."""
    report: dict[str, Any] = {"ratios": {}, "seconds": {}, "sizes": {**asdict(sizes), "rounds": rounds}}
    report |= {"memory": {}, "matmul": {}, "client": {}}
    if NEED_SERVER & set(parts):
        prepare(folder, sizes)
    for name in parts:
        if name in COMPARISONS:
            times = alternate(name, COMPARISONS[name](folder, sizes), rounds)
            report["ratios"][name], report["seconds"][name] = summarise(times)
        elif name == "memory":
            report["memory"] = measure_memory(folder, sizes)
        elif name == "client":
            report["client"] = measure_client()
        else:
            report["matmul"] = measure_matmul(folder, sizes, rounds)
    return report


def parse_arguments() -> Namespace:
    parser = CommandParser(__doc__)
    size = Sizes(amp="bf16" if computes_bf16(torch.device("cpu")) else "none", threads=torch.get_num_threads())

    def number(name: str, default: int, help: str, minimum: int = 1) -> None:
        parser.option(name, type=integer_from(minimum), default=default, metavar="N", help=help)

    parser.option("parts", nargs="+", choices=PARTS, default=PARTS, metavar="PART", help="which")
    number("rounds", 3, "times that each side is timed, after a warm-up")
    parser.option("server", choices=SERVERS, default=size.server, metavar="NAME", help="recogniser")
    number("batch-size", size.batch_size, "images of a training step", minimum=2)  # one class would compare nothing
    number("rows", size.rows, "rows of the validation set, two a pair", minimum=2)
    number("pairs", size.pairs, "pairs of the 10-fold accuracy", minimum=FOLDS)
    number("images", size.images, "images obfuscated")
    number("shuffle-batch", size.shuffle_batch, "maps of 64x56x56 values shuffled at once")
    number("matrix-side", size.matrix_side, "rows and columns of the matrix product")
    number("threads", size.threads, "threads of torch and OpenCV")
    parser.option(
        "amp", choices=("none", "bf16"), default=size.amp,
        help="precision of the toolkit's training step and validation; the baseline's is float32; default: bf16 if the "
        "CPU has it",
    )  # fmt: skip
    parser.option("out", default=DEFAULT_OUT, metavar="FILE", help="JSON")
    parser.add_traceback()
    return parser.parse_args()


def sizes_from(arguments: Namespace) -> Sizes:
    """The options as sizes.

    Raises:
        ValueError: half a pair.
    """
    if arguments.rows % 2:
        raise ValueError(f"--rows {arguments.rows}: expected an even number, for two rows are a pair")
    return Sizes(**{name: getattr(arguments, name) for name in asdict(Sizes())})


def main(arguments: Namespace) -> None:
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
