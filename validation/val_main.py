"""Report verification accuracy of clear, obfuscated and compensated faces.

    python validation/val_main.py                                    the settings of validation/config.py
    python validation/val_main.py --backbone-resume runs/demo/client.pth --data-root Data/demo --datasets orl
    python validation/val_main.py --obfuscations hybrid --datasets lfw cfp_fp --device cuda

Follows the LFW protocol: 10 folds, the threshold chosen on nine, the accuracy measured on the tenth. Prints a table
and writes OUT/results.json, results.csv, accuracy.png and a ROC plot for each set.
"""

from __future__ import annotations

import argparse
import io
import sys
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from torchkit.data.validation_set import ValidationSet, check_present, load_validation_set
from torchkit.obfuscation import KINDS
from torchkit.server import RECOGNISERS, Recogniser, load_recogniser
from torchkit.system import ClientFile, ProFaceC, build_system, load_client_file
from torchkit.task.base import pick_device
from torchkit.util.cli import run_command
from torchkit.util.files import atomic_write_bytes
from torchkit.util.provenance import provenance
from validation.config import DEFAULT_CHECKPOINTS, PUBLISHED_SERVER, ROOT, Settings
from validation.evaluate import Condition, embed
from validation.report import Row, draw_accuracy, draw_roc, format_table, write_results
from validation.verification import pair_distances, roc, verify


def parse_arguments() -> argparse.Namespace:
    summary, _, details = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        description=summary, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = Settings()

    def option(name: str, help: str, **kinds: Any) -> None:
        value = getattr(default, name.replace("-", "_"))
        shown = " ".join(value) if isinstance(value, tuple) else value
        parser.add_argument(f"--{name}", default=value, help=f"{help} ({shown})", **kinds)

    option("backbone-resume", "client file", type=Path, metavar="FILE")
    option("data-root", "folder with the validation sets", type=Path, metavar="DIR")
    option("datasets", "validation sets", nargs="+", metavar="NAME")
    option("obfuscations", "kinds of obfuscation", nargs="+", choices=KINDS)
    option("server", "recogniser; None: as the client file says", choices=sorted(RECOGNISERS))
    option("server-checkpoint", "its weights; None: as the client file says", type=Path, metavar="FILE")
    option("channel-order", "colours it is fed; None: as the client file says", choices=["auto", "rgb", "bgr"])
    option("batch-size", "pictures embedded at once", type=int, metavar="N")
    option("num-workers", "processes that obfuscate", type=int, metavar="N")
    option("device", "auto, cpu, cuda or cuda:N")
    option("seed", "seed of the hybrid obfuscation", type=int, metavar="N")
    option("out", "folder for the results", type=Path, metavar="DIR")
    parser.add_argument("--dump-embeddings", action="store_true", help="write OUT/embeddings/*.npz")
    parser.add_argument("--traceback", action="store_true", help="show where in the code an error arose")
    return parser.parse_args()


def settings_from(arguments: argparse.Namespace) -> Settings:
    """The options as settings.

    Raises:
        ValueError: a number that is out of range.
    """
    values = {field.name: getattr(arguments, field.name) for field in fields(Settings)}
    settings = Settings(**values)
    if settings.batch_size < 1 or settings.num_workers < 0:
        raise ValueError(
            f"--batch-size {settings.batch_size} --num-workers {settings.num_workers}: "
            "a batch has at least 1 picture, and there are 0 or more workers"
        )
    return replace(settings, datasets=tuple(settings.datasets), obfuscations=tuple(settings.obfuscations))


def load_system(settings: Settings) -> ProFaceC:
    """Client and server as the settings and the client file say.

    Raises:
        FileNotFoundError, ValueError: a file is missing, damaged, or does not fit the other.
    """
    file = load_client_file(settings.backbone_resume)
    name = settings.server or file.server.name or PUBLISHED_SERVER
    order = settings.channel_order or file.server.channel_order
    recogniser: Recogniser = load_recogniser(name, find_checkpoint(settings, file, name), order)
    return build_system(file, recogniser, str(settings.backbone_resume))


def find_checkpoint(settings: Settings, file: ClientFile, server: str) -> Path:
    """Where the server's weights are: as asked, else as the client file says, else under model/."""
    if settings.server_checkpoint is not None:
        return settings.server_checkpoint
    places = []
    if file.server.checkpoint is not None and server == file.server.name:
        places += [file.server.checkpoint, ROOT / "model" / file.server.checkpoint.name]
    if server in DEFAULT_CHECKPOINTS:
        places.append(DEFAULT_CHECKPOINTS[server])
    for place in places:
        if place.is_file():
            return place
    looked = ", ".join(map(str, dict.fromkeys(places))) or "nowhere"
    raise FileNotFoundError(
        f"no weights for the server {server}: looked at {looked}; give them with --server-checkpoint "
        "(model/README.md says where to get them)"
    )


def evaluate_set(
    system: ProFaceC, data: ValidationSet, settings: Settings, device: torch.device
) -> tuple[list[Row], dict[str, tuple[np.ndarray, np.ndarray]]]:
    """Rows of the report and ROC curves of one validation set."""
    embeddings = embed(
        system, data, settings.obfuscations, device, settings.batch_size, settings.num_workers, settings.seed
    )
    rows, curves = [], {}
    for condition, array in embeddings.items():
        result = verify(array, data.same)
        row = Row(
            dataset=data.name,
            obfuscation=condition.obfuscation,
            condition=condition.name,
            images=len(data.images),
            pairs=len(data.same),
            payload_bytes=None,
            **asdict(result),
        )
        rows.append(row)
        false_match, true_match, _ = roc(pair_distances(array), data.same)
        curves[label(condition)] = (false_match, true_match)
        if settings.dump_embeddings:
            dump_embeddings(settings.out, data.name, condition, array)
    return rows, curves


def label(condition: Condition) -> str:
    return condition.name if condition.obfuscation is None else f"{condition.obfuscation}, {condition.name}"


def dump_embeddings(out: Path, dataset: str, condition: Condition, embeddings: np.ndarray) -> None:
    """Write OUT/embeddings/DATASET__OBFUSCATION__CONDITION.npz; the clear rows' obfuscation is called "none"."""
    buffer = io.BytesIO()
    np.savez(buffer, embeddings=embeddings)
    name = f"{dataset}__{condition.obfuscation or 'none'}__{condition.name}.npz"
    atomic_write_bytes(out / "embeddings" / name, buffer.getvalue())


def main(arguments: argparse.Namespace) -> None:
    settings = settings_from(arguments)
    check_present(settings.data_root, settings.datasets)
    device = pick_device(settings.device)
    system = load_system(settings).to(device)
    system.to(memory_format=torch.channels_last)
    rows: list[Row] = []
    plots = []
    for name in settings.datasets:
        found, curves = evaluate_set(system, load_validation_set(settings.data_root, name), settings, device)
        rows += found
        plots.append(draw_roc(settings.out, curves, name))
    config = {
        **{key: str(value) if isinstance(value, Path) else value for key, value in asdict(settings).items()},
        "client": system.client.settings.as_dict(),
        "recogniser": {"name": system.recogniser.name, "channel_order": system.recogniser.channel_order},
        "provenance": provenance(),
    }
    written = [write_results(settings.out, rows, config), draw_accuracy(settings.out, rows), *plots]
    print(format_table(rows))
    print("wrote " + ", ".join(str(path) for path in written))


if __name__ == "__main__":
    parsed = parse_arguments()
    run_command(lambda: main(parsed), parsed.traceback)
