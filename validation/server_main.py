"""Report the verification accuracy of a recogniser on clear faces, without a client.

    python validation/server_main.py --server mobilefacenet --server-checkpoint runs/server/recogniser.pth
    python validation/server_main.py --server ir_50 --server-checkpoint model/adaface_ir50_webface4m.ckpt

This is the upper limit of what a client can reach: run it before clients are trained for a server, and on recognisers
of `python train.py TASK=server`. Protocol and files are those of val_main.py, without obfuscated faces.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from torchkit.data.validation_set import ValidationSet, check_present, load_validation_set
from torchkit.server import Recogniser, load_recogniser
from torchkit.util.cli import CommandParser, run_command
from torchkit.util.device import amp_dtype, keep_freed_memory, pick_device
from torchkit.util.provenance import provenance
from validation.config import ROOT, Settings
from validation.measure.conditions import Parties, cases
from validation.measure.evaluate import Computation, embed
from validation.options import add_options
from validation.protocol.verification import check_pairs
from validation.report.outputs import SetResult, print_report, score_set, write_outputs
from validation.report.rows import PROTOCOL, WORDS, rates_table


def parse_arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse `given`; None: the command line."""
    parser = CommandParser(__doc__)
    parser.option("server", required=True, metavar="NAME", help="recogniser, as SERVER.NAME in train.yaml")
    parser.option("server-checkpoint", type=Path, required=True, metavar="FILE", help="its weights")
    parser.option("channel-order", default="auto", choices=["auto", "rgb", "bgr"], help="colours it is fed")
    add_options(parser, "data-root", "datasets", "batch-size", "device", "amp", "resamples")
    parser.option("out", default=ROOT / "runs" / "server_validation")
    parser.add_traceback()
    return parser.parse_args(given)


def evaluate_set(
    recogniser: Recogniser, data: ValidationSet, arguments: argparse.Namespace, device: torch.device
) -> SetResult:
    """Compute figures and distances of all pairs of a validation set."""
    check_pairs(data.same, f"validation set {data.name!r}")
    computation = Computation(device, arguments.batch_size, amp=amp_dtype(arguments.amp, device))
    embeddings = embed(Parties(recogniser), data, cases((), ["clear"]), Settings.seed, computation)
    return score_set(data, embeddings, arguments.resamples, Settings.seed)


def main(arguments: argparse.Namespace) -> None:
    check_present(arguments.data_root, arguments.datasets)
    device = pick_device(arguments.device)
    recogniser = load_recogniser(arguments.server, arguments.server_checkpoint, arguments.channel_order).to(device)
    recogniser.to(memory_format=torch.channels_last)
    results = [
        evaluate_set(recogniser, load_validation_set(arguments.data_root, name), arguments, device)
        for name in arguments.datasets
    ]
    config = {
        **{key: str(value) if isinstance(value, Path) else value for key, value in vars(arguments).items()},
        "recogniser": {"name": recogniser.name, "channel_order": recogniser.channel_order},
        "provenance": provenance(),
    }
    notes = [PROTOCOL, WORDS]
    written = write_outputs(arguments.out, results, config, notes)
    rows = [row for result in results for row in result.rows]
    print_report([rates_table(rows, intervals=False)], notes, written)


if __name__ == "__main__":
    parsed = parse_arguments()
    keep_freed_memory()
    run_command(lambda: main(parsed), parsed.traceback)
