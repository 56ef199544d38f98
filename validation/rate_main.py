"""Accuracy against the bytes of a message, as an image: how far features can be quantised and pruned.

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
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from torchkit.client import Client
from torchkit.client.calibrate import is_compressed, recompressed, without_quantisation
from torchkit.client.encoder import Encoder
from torchkit.client.quantise import BITS
from torchkit.data.training_set import as_received
from torchkit.data.validation_set import ValidationSet, load_validation_set
from torchkit.obfuscation import KINDS, evaluation_image
from torchkit.payload import EncodedImage
from torchkit.system import ProFaceC, load_system
from torchkit.util.cli import run_command
from torchkit.util.device import amp_dtype, autocast, keep_freed_memory, pick_device
from torchkit.util.files import atomic_write_text
from torchkit.util.provenance import provenance
from validation.config import ROOT, Settings
from validation.measure.payload_size import PayloadSize, measure_payload
from validation.protocol.verification import verify
from validation.report.chart import new_figure, save_png, styled

CALIBRATION_IMAGES = 64
FLOAT_BYTES = 4
BYTES_PER_KB = 1000


@dataclass(frozen=True)
class Point:
    """One way to send faces."""

    series: str
    """clear, obfuscated, published layout, trained, trained but not quantised, or compressed afterwards."""
    client: str | None
    """Its file."""
    bits: tuple[int, ...] | None
    """Of each tap."""
    pruned_values: float | None
    """Share of values sent as zero, where that was done after training."""
    size: PayloadSize
    accuracy: float
    std: float
    """Over the folds."""

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
    """A validation set under one obfuscation, as the client sees it and as the server gets it."""

    data: ValidationSet
    kind: str
    seed: int
    clear: Tensor
    """(N, 3, 112, 112) uint8 RGB."""
    obfuscated: Tensor


@dataclass(frozen=True)
class Bench:
    """Where and how to compute."""

    device: torch.device
    amp: torch.dtype | None
    batch_size: int


def parse_arguments() -> argparse.Namespace:
    summary, _, details = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        description=summary, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = Settings()
    parser.add_argument("--clients", nargs="+", type=Path, required=True, metavar="FILE", help="client files")
    parser.add_argument("--data-root", type=Path, default=default.data_root, metavar="DIR", help="validation sets")
    parser.add_argument("--dataset", default=default.datasets[0], metavar="NAME", help=f"set ({default.datasets[0]})")
    parser.add_argument("--obfuscation", choices=KINDS, default="hybrid", help="kind (hybrid)")
    parser.add_argument("--bits", nargs="*", type=int, choices=BITS, default=[8, 4, 2, 1], help="(8 4 2 1)")
    parser.add_argument("--prune", nargs="*", type=float, default=[0.0, 0.5, 0.8], metavar="SHARE", help="(0 0.5 0.8)")
    parser.add_argument("--batch-size", type=int, default=default.batch_size, metavar="N", help="images at once")
    parser.add_argument("--device", default=default.device, help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--amp", choices=("auto", "bf16", "none"), default=default.amp, help="precision (auto)")
    parser.add_argument("--seed", type=int, default=default.seed, help="of the hybrid obfuscation")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "rate", metavar="DIR", help="(runs/rate)")
    parser.add_argument("--traceback", action="store_true", help="show where in the code an error arose")
    return parser.parse_args()


def prepare_faces(data: ValidationSet, kind: str, seed: int, quality: int | None) -> Faces:
    """Obfuscate the distinct images of a set."""
    clear = [np.ascontiguousarray(image.transpose(1, 2, 0)) for image in data.images]
    sent = [
        as_received(evaluation_image(image, kind, seed), quality).transpose(2, 0, 1)
        for image in tqdm(clear, desc=kind, unit=" images", dynamic_ncols=True)
    ]
    images = torch.from_numpy(np.ascontiguousarray(data.images))
    return Faces(data, kind, seed, images, torch.from_numpy(np.stack(sent)))


@torch.inference_mode()
def accuracy(embeddings: Iterator[Tensor], data: ValidationSet, unit: str) -> tuple[float, float]:
    """Accuracy and its deviation over folds of a set's distinct images, embedded batch by batch."""
    bar = tqdm(embeddings, desc=unit, unit=" batches", dynamic_ncols=True)
    distinct = torch.cat([batch.cpu() for batch in bar]).numpy()
    result = verify(distinct[data.rows], data.same)
    return result.accuracy, result.accuracy_std


def compensated(system: ProFaceC, client: Client, faces: Faces, bench: Bench) -> Iterator[Tensor]:
    """Embeddings of a client's messages, batch by batch."""
    pairs = zip(faces.clear.split(bench.batch_size), faces.obfuscated.split(bench.batch_size), strict=True)
    for clear, obfuscated in pairs:
        on_device = clear.to(bench.device), obfuscated.to(bench.device)
        with autocast(bench.amp, bench.device):
            yield system.server(on_device[1], client(client.prepare(*on_device)))


def recognised(system: ProFaceC, images: Tensor, bench: Bench) -> Iterator[Tensor]:
    """Embeddings of images alone."""
    for batch in images.split(bench.batch_size):
        with autocast(bench.amp, bench.device):
            yield system.recogniser(batch.to(bench.device))


def image_points(system: ProFaceC, faces: Faces, bench: Bench) -> list[Point]:
    """The clear and the obfuscated images, without features."""
    quality = system.client.settings.image_quality
    found = []
    for series, images in (("clear", faces.clear), ("obfuscated", faces.obfuscated)):
        sample = images[:: max(1, len(images) // CALIBRATION_IMAGES)].permute(0, 2, 3, 1).contiguous().numpy()
        size = float(np.mean([len(EncodedImage.compress(image, quality).data) for image in sample]))
        rates = accuracy(recognised(system, images, bench), faces.data, series)
        found.append(Point(series, None, None, None, PayloadSize(size, size, 0), *rates))
    return found


def client_point(
    system: ProFaceC, client: Client, series: str, file: Path, share: float | None, faces: Faces, bench: Bench
) -> Point:
    """One client's accuracy and bytes."""
    size = measure_payload(Encoder(client), faces.data, faces.kind, faces.seed)
    rates = accuracy(compensated(system, client, faces, bench), faces.data, f"{series} {client.settings.bits}")
    return Point(series, str(file), client.settings.bits, share, size, *rates)


def published_layout(point: Point, system: ProFaceC) -> Point:
    """The same features as float32 at the size of the server's maps."""
    features = FLOAT_BYTES * sum(c * h * w for c, h, w in system.client.settings.server_shapes)
    size = PayloadSize(features + point.size.image, point.size.image, features)
    return replace(point, series="published layout", size=size)


def evaluate_client(file: Path, arguments: argparse.Namespace, data: ValidationSet, first: bool) -> list[Point]:
    """All points of one client file; with `first` also those without features."""
    device = pick_device(arguments.device)
    bench = Bench(device, amp_dtype(arguments.amp, device), arguments.batch_size)
    system = load_system(file).to(device).to(memory_format=torch.channels_last)
    faces = prepare_faces(data, arguments.obfuscation, arguments.seed, system.client.settings.image_quality)
    points = image_points(system, faces, bench) if first else []
    trained = client_point(system, system.client, "trained", file, None, faces, bench)
    points.append(trained)
    if is_compressed(system.client):
        client = without_quantisation(system.client)
        return [*points, client_point(system, client, "trained, not quantised", file, None, faces, bench)]
    points.append(published_layout(trained, system))
    sample = slice(None, None, max(1, len(faces.clear) // CALIBRATION_IMAGES))
    prepared = system.client.prepare(faces.clear[sample].to(device), faces.obfuscated[sample].to(device))
    for bits in arguments.bits:
        for share in arguments.prune if bits > 1 else [0.0]:
            client = recompressed(system.client, bits, share, prepared)
            points.append(client_point(system, client, "compressed afterwards", file, share, faces, bench))
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
    """Accuracy over bytes on a logarithmic axis; the obfuscated images, far below, have a strip of their own."""
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


def format_points(points: list[Point]) -> str:
    lines = [f"{'':<48}{'message B':>11}{'image B':>11}{'features B':>12}{'accuracy %':>12}"]
    for point in points:
        size = point.size
        lines.append(
            f"{point.label:<48}{size.message:>11.0f}{size.image:>11.0f}{size.features:>12.0f}"
            f"{100 * point.accuracy:>12.2f}"
        )
    return "\n".join(lines)


def main(arguments: argparse.Namespace) -> None:
    if not all(0 <= share < 1 for share in arguments.prune):
        raise ValueError(f"--prune {arguments.prune}: expected shares of values from 0 to below 1")
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
    print(format_points(points))
    print(f"wrote {arguments.out / 'rate.json'}, {image}")


if __name__ == "__main__":
    parsed = parse_arguments()
    keep_freed_memory()
    run_command(lambda: main(parsed), parsed.traceback)
