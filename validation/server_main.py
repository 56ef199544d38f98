"""Report the verification accuracy of a recogniser on clear faces, without a client.

    python validation/server_main.py --server mobilefacenet --server-checkpoint runs/server/recogniser.pth
    python validation/server_main.py --server ir_50 --server-checkpoint model/adaface_ir50_webface4m.ckpt

What a client can bring back at most: run it on a server before clients are trained for it, and on what
`python train.py TASK=server` made. Same protocol and same files as val_main.py, without those of obfuscated faces.
"""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from torchkit.data.validation_set import ValidationSet, check_present, load_validation_set
from torchkit.server import Recogniser, load_recogniser
from torchkit.util.cli import run_command
from torchkit.util.device import amp_dtype, keep_freed_memory, pick_device
from torchkit.util.provenance import provenance
from validation.config import ROOT, Settings
from validation.measure.clear import embed_clear
from validation.protocol.intervals import bootstrap
from validation.protocol.pairs import score_pairs
from validation.protocol.verification import check_pairs, pair_distances, verify_distances
from validation.report.outputs import SetResult, write_outputs
from validation.report.rows import PROTOCOL, WORDS, Row, rates_table


def parse_arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line, or `given` in its place."""
    summary, _, details = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        description=summary, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = Settings()
    out = ROOT / "runs" / "server_validation"
    parser.add_argument("--server", required=True, metavar="NAME", help="recogniser, as SERVER.NAME in train.yaml")
    parser.add_argument("--server-checkpoint", type=Path, required=True, metavar="FILE", help="its weights")
    parser.add_argument(
        "--channel-order", default="auto", choices=["auto", "rgb", "bgr"], help="colours it is fed (auto)"
    )
    parser.add_argument(
        "--data-root", type=Path, default=default.data_root, metavar="DIR", help="folder with the validation sets"
    )
    parser.add_argument("--datasets", nargs="+", default=default.datasets, metavar="NAME", help="validation sets")
    parser.add_argument("--batch-size", type=int, default=default.batch_size, metavar="N", help="images at once")
    parser.add_argument("--device", default=default.device, help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--amp", default=default.amp, choices=["auto", "bf16", "none"], help="precision (auto)")
    parser.add_argument(
        "--resamples", type=int, default=default.resamples, metavar="N", help="for the 95 %% intervals; 0: no intervals"
    )
    parser.add_argument("--out", type=Path, default=out, metavar="DIR", help=f"folder for the results ({out})")
    parser.add_argument("--traceback", action="store_true", help="show where in the code an error arose")
    return parser.parse_args(given)


def evaluate_set(
    recogniser: Recogniser, data: ValidationSet, arguments: argparse.Namespace, device: torch.device
) -> SetResult:
    """Rates and distances of all pairs of one validation set."""
    check_pairs(data.same, f"validation set {data.name!r}")
    amp = amp_dtype(arguments.amp, device)
    distances = pair_distances(embed_clear(recogniser, data, device, arguments.batch_size, amp))
    drawn = arguments.resamples > 0
    row = Row(
        dataset=data.name,
        obfuscation=None,
        condition="clear",
        result=verify_distances(distances, data.same),
        images=len(data.images),
        pairs=len(data.same),
        intervals=bootstrap(distances, data.same, arguments.resamples, Settings.seed) if drawn else None,
    )
    return SetResult([row], score_pairs(data, {row.label: distances}), [])


def main(arguments: argparse.Namespace) -> None:
    if arguments.batch_size < 1 or arguments.resamples < 0:
        raise ValueError(
            f"--batch-size {arguments.batch_size} --resamples {arguments.resamples}: a batch has at least 1 "
            "image, and there are 0 (none) or more resamples"
        )
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
    print(rates_table([row for result in results for row in result.rows], intervals=False).text())
    print("\n".join(textwrap.fill(note, 110, initial_indent="* ", subsequent_indent="  ") for note in notes) + "\n")
    print("wrote " + ", ".join(str(path) for path in written))


if __name__ == "__main__":
    parsed = parse_arguments()
    keep_freed_memory()
    run_command(lambda: main(parsed), parsed.traceback)
