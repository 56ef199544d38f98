"""Report verification accuracy of clear, obfuscated and compensated faces.

    python validation/val_main.py                                    the settings of validation/config.py
    python validation/val_main.py --backbone-resume runs/demo/client.pth --data-root Data/demo/validation --datasets orl
    python validation/val_main.py --obfuscations hybrid --datasets lfw cfp_fp --device cuda
    torchrun --nproc-per-node=2 validation/val_main.py               in two processes, with a GPU each if there are any

Follows the LFW protocol: 10 folds, the threshold chosen on nine, the accuracy measured on the tenth. Beside it stand
AUC, EER and TAR at fixed FARs (those that the set has enough impostor pairs for), all with 95 % intervals.

Prints two tables and writes to OUT: report.html (everything on one page), results.json, results.csv, results.md,
accuracy.png, and for each set plots of ROC, DET and distances and pairs_SET.npz, for validation/compare.py.
"""

from __future__ import annotations

import argparse
import io
import sys
import textwrap
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from torchkit.client.encoder import Encoder
from torchkit.data.camera import CAMERAS
from torchkit.data.validation_set import ValidationSet, check_present, load_validation_set
from torchkit.obfuscation import KINDS
from torchkit.system import ProFaceC, load_client_file, trained
from torchkit.util.device import amp_dtype, keep_freed_memory, pick_device
from torchkit.util.distributed import is_main
from torchkit.util.files import atomic_write_bytes
from torchkit.util.launch import run_processes, start_processes
from torchkit.util.provenance import provenance
from torchkit.util.seeding import content_stream
from validation.config import Settings
from validation.measure.evaluate import Condition, embed
from validation.measure.payload_size import PayloadSize, measure_payload
from validation.protocol.intervals import bootstrap
from validation.protocol.pairs import score_pairs
from validation.protocol.references import Reference, describe, find_reference
from validation.protocol.verification import check_pairs, pair_distances, verify_distances
from validation.report.examples import example_faces
from validation.report.outputs import SetResult, write_outputs
from validation.report.rows import Row, notes_on, rates_table, summary_table


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
    option("camera", "what a camera does to every image first; None: nothing", choices=sorted(CAMERAS))
    option("server", "recogniser; None: as the client file says", metavar="NAME")
    option("server-checkpoint", "its weights; None: as the client file says", type=Path, metavar="FILE")
    option("channel-order", "colours it is fed; None: as the client file says", choices=["auto", "rgb", "bgr"])
    option("batch-size", "images embedded at once", type=int, metavar="N")
    option("num-workers", "processes that obfuscate", type=int, metavar="N")
    option("device", "auto, cpu, cuda or cuda:N")
    option("amp", "precision; auto: bf16 where the device computes in it, else none", choices=["auto", "bf16", "none"])
    option("seed", "seed of the hybrid obfuscation and of the bootstrap", type=int, metavar="N")
    option("resamples", "resamples for the 95 %% intervals; 0: no intervals", type=int, metavar="N")
    option("examples", "faces of each set that report.html shows, also clear; 0: none", type=int, metavar="N")
    option("out", "folder for the results", type=Path, metavar="DIR")
    parser.add_argument(
        "--flip",
        action="store_true",
        help="fuse image and mirror image, as AdaFace's published accuracies do; takes twice the time",
    )
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
    if settings.resamples < 0 or settings.examples < 0:
        raise ValueError(f"--resamples {settings.resamples} --examples {settings.examples}: both are 0 (none) or more")
    if settings.batch_size < 1 or settings.num_workers < 0:
        raise ValueError(
            f"--batch-size {settings.batch_size} --num-workers {settings.num_workers}: "
            "a batch has at least 1 image, and there are 0 or more workers"
        )
    return replace(settings, datasets=tuple(settings.datasets), obfuscations=tuple(settings.obfuscations))


def load_system(settings: Settings) -> ProFaceC:
    """Client and server as the settings and the client file say.

    Raises:
        FileNotFoundError, ValueError: a file is missing, damaged, or does not fit the other.
    """
    return trained.load_system(
        settings.backbone_resume, settings.server, settings.server_checkpoint, settings.channel_order
    )


def load_set(settings: Settings, name: str) -> ValidationSet:
    """A validation set as the camera of the settings took it; what it draws follows from seed and image alone.

    Raises:
        FileNotFoundError, ValueError: as `load_validation_set`.
    """
    data = load_validation_set(settings.data_root, name)
    if settings.camera is None:
        return data
    camera = CAMERAS[settings.camera]
    images = np.empty_like(data.images)
    for place, image in enumerate(data.images):
        face = np.ascontiguousarray(image.transpose(1, 2, 0))  # (112, 112, 3)
        images[place] = camera(face, content_stream(face, settings.seed, "camera")).transpose(2, 0, 1)
    return replace(data, images=images)


def server_weights(settings: Settings) -> Path:
    """The recogniser's weights that `load_system` reads.

    Raises:
        FileNotFoundError, ValueError: as `load_system`.
    """
    said = load_client_file(settings.backbone_resume).server
    return trained.find_server(said, settings.server, settings.server_checkpoint)[1]


def evaluate_set(
    system: ProFaceC, data: ValidationSet, settings: Settings, device: torch.device, reference: Reference | None = None
) -> SetResult | None:
    """Rates, distances of all pairs and example faces of one validation set; None in a process that only embeds."""
    check_pairs(data.same, f"validation set {data.name!r}")
    embeddings = embed(
        system,
        data,
        settings.obfuscations,
        device,
        settings.batch_size,
        settings.num_workers,
        settings.seed,
        settings.flip,
        amp_dtype(settings.amp, device),
    )
    if not is_main():
        return None
    if settings.dump_embeddings:
        for condition, array in embeddings.items():
            dump_embeddings(settings.out, data.name, condition, array)
    distances = {condition: pair_distances(array) for condition, array in embeddings.items()}
    rows = [make_row(data, condition, found, settings, reference) for condition, found in distances.items()]
    encoder = Encoder(system.client)
    rows = [
        with_sizes(row, measure_payload(encoder, data, row.obfuscation, settings.seed, settings.flip))
        if row.condition == "compensated" and row.obfuscation
        else row
        for row in rows
    ]
    scores = score_pairs(data, dict(zip((row.label for row in rows), distances.values(), strict=True)))
    faces = example_faces(system.client, data, settings.obfuscations, settings.seed, settings.examples)
    return SetResult(rows, scores, faces)


def make_row(
    data: ValidationSet,
    condition: Condition,
    distances: np.ndarray,
    settings: Settings,
    reference: Reference | None,
) -> Row:
    """All rates of a set under one condition, with intervals if settings.resamples asks for them, without sizes."""
    drawn = settings.resamples > 0
    published = reference.accuracies if reference and condition.name == "clear" else {}
    return Row(
        dataset=data.name,
        obfuscation=condition.obfuscation,
        condition=condition.name,
        result=verify_distances(distances, data.same),
        images=len(data.images),
        pairs=len(data.same),
        intervals=bootstrap(distances, data.same, settings.resamples, settings.seed) if drawn else None,
        reference_accuracy=published.get(data.name),
    )


def with_sizes(row: Row, size: PayloadSize) -> Row:
    """The row with the bytes of a message."""
    return replace(row, payload_bytes=size.message, payload_image_bytes=size.image, payload_feature_bytes=size.features)


def dump_embeddings(out: Path, dataset: str, condition: Condition, embeddings: np.ndarray) -> None:
    """Write OUT/embeddings/DATASET__OBFUSCATION__CONDITION.npz; the clear rows' obfuscation is called "none"."""
    buffer = io.BytesIO()
    np.savez(buffer, embeddings=embeddings)
    name = f"{dataset}__{condition.obfuscation or 'none'}__{condition.name}.npz"
    atomic_write_bytes(out / "embeddings" / name, buffer.getvalue())


def main(arguments: argparse.Namespace) -> None:
    settings = settings_from(arguments)
    check_present(settings.data_root, settings.datasets)
    start_processes(settings.device)
    device = pick_device(settings.device)
    system = load_system(settings).to(device)
    system.to(memory_format=torch.channels_last)
    weights = server_weights(settings)
    # what was published holds for images that no camera changed
    reference = find_reference(system.recogniser.name, weights) if settings.camera is None else None
    found = [evaluate_set(system, load_set(settings, name), settings, device, reference) for name in settings.datasets]
    results = [result for result in found if result is not None]
    if not is_main():
        return
    rows = [row for result in results for row in result.rows]
    config = {
        **{key: str(value) if isinstance(value, Path) else value for key, value in asdict(settings).items()},
        "client": system.client.settings.as_dict(),
        "recogniser": {
            "name": system.recogniser.name,
            "weights": str(weights),
            "channel_order": system.recogniser.channel_order,
        },
        "provenance": provenance(),
    }
    notes = notes_on(rows)
    if reference and any(row.reference_accuracy is not None for row in rows):
        notes.append(describe(reference))
    written = write_outputs(settings.out, results, config, notes)
    print(summary_table(rows).text())
    print(rates_table(rows, intervals=False).text())
    print("\n".join(textwrap.fill(note, 110, initial_indent="* ", subsequent_indent="  ") for note in notes) + "\n")
    print("wrote " + ", ".join(str(path) for path in written))


if __name__ == "__main__":
    parsed = parse_arguments()
    keep_freed_memory()
    run_processes(lambda: main(parsed), parsed.traceback)
