"""Measure accuracy against the bytes of a message: how far features can be quantised and pruned.

    python validation/rate_main.py --clients runs/faces/client.pth --dataset faces
    python validation/rate_main.py --clients runs/a/client.pth runs/b/client.pth --bits 8 4 2 1 --prune 0 0.5 0.75

Each client is a point as it was trained; one that was trained through compression is also a point with the same
features before they are quantised. A client that was trained with float32 features is also compressed afterwards, to
each of --bits with each share of --prune of its values sent as zero, which shows what training through the compression
is worth. Every point is encoded for real: its bytes are the mean of whole messages, obfuscated image included. For
comparison: the clear images, the obfuscated images alone, and the features of the published layout (float32 at the
size of the server's maps).

Prints a table and writes OUT/rate.json and OUT/rate.png.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from torchkit.client import Client
from torchkit.client.calibrate import is_compressed, recompressed, without_quantisation
from torchkit.client.quantise import BITS
from torchkit.data.validation_set import ValidationSet, load_validation_set
from torchkit.obfuscation import KINDS
from torchkit.payload import EncodedImage
from torchkit.system import ProFaceC, load_system
from torchkit.system.observation import channels_last
from torchkit.util.cli import CommandParser, run_command, share_below
from torchkit.util.cost import Cost
from torchkit.util.device import amp_dtype, keep_freed_memory, pick_device
from torchkit.util.files import atomic_write_text
from torchkit.util.provenance import provenance
from validation.config import ROOT, Settings
from validation.measure.conditions import Case, Parties, Party, System
from validation.measure.cost import cost_extras, measure_costs
from validation.measure.evaluate import Computation, FaceBatch, embed_batches, face_batches, prepare
from validation.measure.payload_size import PayloadSize, SizeCounter
from validation.options import add_options
from validation.protocol.verification import verify
from validation.report.chart import new_figure, save_png, styled
from validation.report.rows import COSTS, per_cent, show_extra
from validation.report.tables import Table

Costs = Mapping[Party, Cost]
CALIBRATION_IMAGES = 64
FLOAT_BYTES = 4
BYTES_PER_KB = 1000


@dataclass(frozen=True)
class Point:
    """A way to send faces: its accuracy, bytes and costs."""

    series: str
    """clear, obfuscated, published layout, trained, trained but not quantised, or compressed afterwards."""
    client: str | None
    """Path of its file."""
    bits: tuple[int, ...] | None
    """Bits of each tap."""
    pruned_values: float | None
    """Share of values sent as zero, where that was done after training."""
    size: PayloadSize
    accuracy: float
    std: float
    """Over the folds."""
    costs: dict[str, float]
    """Of client and server for a face, as a row of results.json has them."""

    @property
    def label(self) -> str:
        if self.bits is None:
            return self.series
        return f"{self.series}: {self.short_label}"

    @property
    def short_label(self) -> str:
        """Bits and pruned values."""
        assert self.bits is not None
        zero = f", {self.pruned_values:.0%} zero" if self.pruned_values else ""
        return "/".join(map(str, dict.fromkeys(self.bits))) + " bit" + zero


@dataclass(frozen=True)
class Faces:
    """A validation set under one obfuscation, as a client's quality leaves it: obfuscated once for all points."""

    data: ValidationSet
    kind: str
    seed: int
    computation: Computation
    batches: list[FaceBatch]

    @property
    def images(self) -> dict[str, Tensor]:
        """(M, 3, 112, 112) uint8 RGB of the series without features."""
        return {
            "clear": torch.cat([batch.clear for batch in self.batches]),
            "obfuscated": torch.cat([batch.obfuscated[self.kind][0] for batch in self.batches]),
        }


def parse_arguments() -> argparse.Namespace:
    parser = CommandParser(__doc__)
    parser.option("clients", nargs="+", type=Path, required=True, metavar="FILE", help="client files")
    parser.option("dataset", default=Settings.datasets[0], metavar="NAME", help="validation set")
    parser.option("obfuscation", choices=KINDS, default="hybrid", help="kind")
    parser.option("bits", nargs="*", type=int, choices=BITS, default=[8, 4, 2, 1], help="to compress to afterwards")
    parser.option(
        "prune", nargs="*", type=share_below(1), default=[0.0, 0.5, 0.8], metavar="SHARE", help="of values sent as zero"
    )
    add_options(parser, "data-root", "batch-size", "num-workers", "device", "amp", "seed")
    parser.option("out", default=ROOT / "runs" / "rate")
    parser.add_traceback()
    return parser.parse_args()


def observe_faces(system: System, data: ValidationSet, kind: str, seed: int, computation: Computation) -> Faces:
    """Observe the faces of a set as the server gets them."""
    batches = face_batches(system, data.images, [Case("obfuscated", kind)], seed, computation)
    return Faces(data, kind, seed, computation, list(tqdm(batches, desc=kind, unit=" batches", dynamic_ncols=True)))


@torch.inference_mode()
def measure(
    system: System, faces: Faces, wanted: Iterable[Case], unit: str
) -> dict[Case, tuple[float, float, PayloadSize | None]]:
    """Measure accuracy, its deviation over the folds and, where messages are sent, their size, in each case."""
    prepared = prepare(system, wanted, faces.seed, faces.computation, None)
    counter = SizeCounter(len(faces.data.images), faces.computation)
    batches = tqdm(faces.batches, desc=unit, unit=" batches", dynamic_ncols=True)
    distinct = embed_batches(system, batches, len(faces.data.images), prepared, faces.computation, [counter])
    sizes = counter.mean_sizes(list(prepared))
    results = {case: verify(array[faces.data.rows], faces.data.same) for case, array in distinct.items()}
    return {case: (result.accuracy, result.accuracy_std, sizes.get(case)) for case, result in results.items()}


def image_points(system: System, quality: int | None, faces: Faces, costs: Costs) -> list[Point]:
    """The clear and the obfuscated images, without features."""
    points = []
    wanted = [Case("clear"), Case("obfuscated", faces.kind)]
    for case, (accuracy, std, _) in measure(system, faces, wanted, "images").items():
        images = faces.images[case.name]
        sample = channels_last(images[:: max(1, len(images) // CALIBRATION_IMAGES)])
        size = float(np.mean([len(EncodedImage.compress(image, quality).data) for image in sample]))
        bytes_sent, cost = PayloadSize(size, size, 0), cost_extras(case.condition, costs)
        points.append(Point(case.name, None, None, None, bytes_sent, accuracy, std, cost))
    return points


def client_point(
    system: ProFaceC, client: Client, series: str, file: Path, share: float | None, faces: Faces, costs: Costs
) -> Point:
    """Measure a client's accuracy and bytes."""
    case = Case("compensated", faces.kind)
    parties = Parties(system.recogniser, client, system.server)
    accuracy, std, size = measure(parties, faces, [case], f"{series} {client.settings.bits}")[case]
    assert size is not None
    cost = cost_extras(case.condition, costs)
    return Point(series, str(file), client.settings.bits, share, size, accuracy, std, cost)


def published_layout(point: Point, system: ProFaceC) -> Point:
    """The same features as float32 at the size of the server's maps."""
    features = FLOAT_BYTES * sum(c * h * w for c, h, w in system.client.settings.server_shapes)
    size = PayloadSize(features + point.size.image, point.size.image, features)
    return replace(point, series="published layout", size=size)


def evaluate_client(file: Path, arguments: argparse.Namespace, data: ValidationSet, first: bool) -> list[Point]:
    """Measure all points of a client file; with `first`, also those without features."""
    device = pick_device(arguments.device)
    computation = Computation(device, arguments.batch_size, arguments.num_workers, amp_dtype(arguments.amp, device))
    system = load_system(file).to(device).to(memory_format=torch.channels_last)
    faces = observe_faces(system, data, arguments.obfuscation, arguments.seed, computation)
    costs = measure_costs(system)  # quantising or pruning afterwards changes no multiply-add
    points = image_points(system, system.client.settings.image_quality, faces, costs) if first else []
    trained = client_point(system, system.client, "trained", file, None, faces, costs)
    points.append(trained)
    if is_compressed(system.client):
        client = without_quantisation(system.client)
        return [*points, client_point(system, client, "trained, not quantised", file, None, faces, costs)]
    points.append(published_layout(trained, system))
    clear, obfuscated = faces.images.values()
    sample = slice(None, None, max(1, len(clear) // CALIBRATION_IMAGES))
    prepared = system.client.prepare(clear[sample].to(device), obfuscated[sample].to(device))
    for bits in arguments.bits:
        for share in arguments.prune if bits > 1 else [0.0]:
            client = recompressed(system.client, bits, share, prepared)
            points.append(client_point(system, client, "compressed afterwards", file, share, faces, costs))
    return points


LOOKS = {
    "clear": ("*", "#1f2328"),
    "obfuscated": ("X", "#9a3412"),
    "published layout": ("s", "#6b7280"),
    "trained": ("o", "#0f62fe"),
    "trained, not quantised": ("D", "#0f766e"),
    "compressed afterwards": ("v", "#b45309"),
}
"""Series -> marker and colour."""


@styled
def draw(points: list[Point], title: str, out: Path) -> Path:
    """Draw accuracy over bytes on a logarithmic axis; the obfuscated images, far below, have their own strip."""
    figure = new_figure(8, 5)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[5, 1])
    for series, (marker, colour) in LOOKS.items():
        chosen = [point for point in points if point.series == series]
        axes = lower if series == "obfuscated" else upper
        x, y = [point.size.message / BYTES_PER_KB for point in chosen], [100 * point.accuracy for point in chosen]
        if chosen:
            upper.scatter([], [], s=46, marker=marker, color=colour, label=series)
            axes.scatter(x, y, s=46, marker=marker, color=colour, zorder=3)
        for place, point in zip(zip(x, y, strict=True), chosen, strict=True):
            if point.bits is not None and series != "published layout":
                axes.annotate(
                    point.short_label, place, xytext=(3, 5), textcoords="offset points", fontsize=7, rotation=65
                )
    clear = next(point for point in points if point.series == "clear")
    upper.axhline(100 * clear.accuracy, color=LOOKS["clear"][1], linewidth=0.8, linestyle=":")
    upper.set(xscale="log", ylabel="accuracy, %", title=title)
    upper.margins(x=0.12, y=0.25)
    upper.legend(loc="lower right")
    lower.set(xlabel="kB of a message, image included")
    lower.xaxis.set_major_formatter("{x:g}")
    lower.margins(y=1.5)
    return save_png(figure, out)


def points_table(points: list[Point]) -> Table:
    columns = ["", "message B", "image B", "features B", "accuracy %", *(extra.title for extra in COSTS.values())]
    body = []
    for point in points:
        sizes = [f"{size:.0f}" for size in (point.size.message, point.size.image, point.size.features)]
        costs = [show_extra(extra, point.costs.get(key)) for key, extra in COSTS.items()]
        body.append([point.label, *sizes, per_cent(point.accuracy), *costs])
    return Table(columns, body, text_columns=1)


def main(arguments: argparse.Namespace) -> None:
    data = load_validation_set(arguments.data_root, arguments.dataset)
    points: list[Point] = []
    for file in arguments.clients:
        points += evaluate_client(file, arguments, data, first=not points)
    report = {
        "dataset": data.name,
        "obfuscation": arguments.obfuscation,
        "points": [asdict(point) for point in points],
        "provenance": provenance(),
    }
    atomic_write_text(arguments.out / "rate.json", json.dumps(report, indent=2, allow_nan=False) + "\n")
    image = draw(points, f"{data.name}, {arguments.obfuscation}", arguments.out / "rate.png")
    print(points_table(points).text())
    print(f"wrote {arguments.out / 'rate.json'}, {image}")


if __name__ == "__main__":
    parsed = parse_arguments()
    keep_freed_memory()
    run_command(lambda: main(parsed), parsed.traceback)
