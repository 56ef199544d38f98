"""Report verification accuracy of clear, obfuscated and compensated faces.

    python validation/val_main.py                                    the settings of validation/config.py
    python validation/val_main.py --backbone-resume runs/demo/client.pth --data-root Data/demo/validation --datasets orl
    python validation/val_main.py --obfuscations hybrid --datasets lfw cfp_fp --device cuda
    torchrun --nproc-per-node=2 validation/val_main.py               in two processes, with a GPU each if there are any

Follows the LFW protocol: 10 folds, the threshold chosen on nine, the accuracy measured on the tenth. Also reports AUC,
EER and TAR at fixed FARs (those that the set has enough impostor pairs for), all with 95 % intervals.

Prints two tables and writes to OUT: report.html (everything on one page), results.json, results.csv, results.md,
accuracy.png, and for each set plots of ROC, DET and distances and pairs_SET.npz, for validation/compare.py.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from torchkit.data.camera import CAMERAS
from torchkit.data.validation_set import ValidationSet, check_present, load_validation_set
from torchkit.system import ProFaceC, SystemCost, load_client_file, trained
from torchkit.system.observation import augmented
from torchkit.util.cli import CommandParser
from torchkit.util.cost import Cost
from torchkit.util.device import amp_dtype, keep_freed_memory, pick_device
from torchkit.util.distributed import is_main
from torchkit.util.files import atomic_write_bytes
from torchkit.util.launch import run_processes, start_processes
from torchkit.util.provenance import provenance
from validation.config import Settings
from validation.measure.conditions import Case, Party, cases
from validation.measure.cost import cost_extras, measure_costs
from validation.measure.evaluate import Collector, Computation, embed
from validation.measure.payload_size import SizeCounter
from validation.measure.training_images import read_training_images
from validation.options import OPTIONS, add_options
from validation.protocol.references import Reference, describe, find_reference
from validation.protocol.verification import check_pairs
from validation.report.examples import ExampleCollector
from validation.report.outputs import SetResult, print_report, score_set, write_outputs
from validation.report.rows import condition_costs, notes_on, rates_table, summary_table


def parse_arguments() -> argparse.Namespace:
    parser = CommandParser(__doc__)
    add_options(parser, *OPTIONS)
    parser.switch("flip", "fuse image and mirror image, as AdaFace's published accuracies do; takes twice the time")
    parser.switch("dump-embeddings", "write OUT/embeddings/*.npz")
    parser.add_traceback()
    return parser.parse_args()


def settings_from(arguments: argparse.Namespace) -> Settings:
    """Turn the options into settings."""
    values = {field.name: getattr(arguments, field.name) for field in fields(Settings)}
    settled: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
    return Settings(**settled)


def load_system(settings: Settings) -> ProFaceC:
    """Load client and server by the settings and the client file.

    Raises:
        FileNotFoundError, ValueError: a file is missing, damaged, or does not fit the other.
    """
    return trained.load_system(
        settings.backbone_resume, settings.server, settings.server_checkpoint, settings.channel_order
    )


def load_set(settings: Settings, name: str) -> ValidationSet:
    """Load a validation set as the settings' camera takes it; its draws depend on seed and image alone.

    Raises:
        FileNotFoundError, ValueError: as `load_validation_set`.
    """
    data = load_validation_set(settings.data_root, name)
    if settings.camera is None:
        return data
    return replace(data, images=augmented(data.images, CAMERAS[settings.camera], settings.seed))


def server_weights(settings: Settings) -> Path:
    """Return the path of the recogniser's weights that `load_system` reads.

    Raises:
        FileNotFoundError, ValueError: as `load_system`.
    """
    recorded = load_client_file(settings.backbone_resume).server
    return trained.find_server(recorded, settings.server, settings.server_checkpoint)[1]


@dataclass(frozen=True, eq=False)
class Context:
    """What evaluations of all sets share."""

    device: torch.device
    reference: Reference | None = None
    """Accuracies that the recogniser's authors published."""
    costs: Mapping[Party, Cost] | None = None
    """Costs of what either party may run; None in a process that only embeds."""
    fit_images: np.ndarray | None = None
    """(M, 3, 112, 112) uint8 RGB: training images."""


def evaluate_set(system: ProFaceC, data: ValidationSet, settings: Settings, context: Context) -> SetResult | None:
    """Compute figures, distances and example faces of a validation set; None in a process that only embeds."""
    check_pairs(data.same, f"validation set {data.name!r}")
    wanted = cases(settings.obfuscations, settings.conditions)
    computation = Computation(
        context.device,
        settings.batch_size,
        settings.num_workers,
        amp_dtype(settings.amp, context.device),
        settings.flip,
    )
    counter, faces = SizeCounter(len(data.images), computation), ExampleCollector(data, settings.examples)
    collectors: list[Collector] = [counter, faces]
    embeddings = embed(system, data, wanted, settings.seed, computation, collectors, context.fit_images)
    sizes = counter.mean_sizes(wanted)
    if not is_main():
        return None
    if settings.dump_embeddings:
        for case, array in embeddings.items():
            dump_embeddings(settings.out, data.name, case, array)
    assert context.costs is not None
    extras = {case: sizes[case].extras() if case in sizes else {} for case in wanted}
    extras = {case: known | cost_extras(case.condition, context.costs) for case, known in extras.items()}
    published = context.reference.accuracies.get(data.name) if context.reference else None
    return score_set(data, embeddings, settings.resamples, settings.seed, extras, published, faces.examples())


def dump_embeddings(out: Path, dataset: str, case: Case, embeddings: np.ndarray) -> None:
    """Write OUT/embeddings/DATASET__OBFUSCATION__CONDITION.npz; the clear rows' obfuscation is called "none"."""
    buffer = io.BytesIO()
    np.savez(buffer, embeddings=embeddings)
    name = f"{dataset}__{case.obfuscation or 'none'}__{case.name}.npz"
    atomic_write_bytes(out / "embeddings" / name, buffer.getvalue())


def main(arguments: argparse.Namespace) -> None:
    settings = settings_from(arguments)
    check_present(settings.data_root, settings.datasets)
    start_processes(settings.device)
    device = pick_device(settings.device)
    system = load_system(settings).to(device)
    system.to(memory_format=torch.channels_last)
    weights = server_weights(settings)
    # published accuracies hold for images without a simulated camera
    reference = find_reference(system.recogniser.name, weights) if settings.camera is None else None
    costs = measure_costs(system) if is_main() else None
    fit_images = read_training_images(settings.fit_on, settings.fit_data_root) if settings.fit_on else None
    context = Context(device, reference, costs, fit_images)
    evaluated = [evaluate_set(system, load_set(settings, name), settings, context) for name in settings.datasets]
    results = [result for result in evaluated if result is not None]
    if costs is None:
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
    if warning := SystemCost(costs["client"], costs["compensated server"]).warning():
        notes.append(warning)
    written = write_outputs(settings.out, results, config, notes)
    tables = [summary_table(rows), rates_table(rows, intervals=False), condition_costs(rows)]
    print_report([table for table in tables if table], notes, written)


if __name__ == "__main__":
    parsed = parse_arguments()
    keep_freed_memory()
    run_processes(lambda: main(parsed), parsed.traceback)
