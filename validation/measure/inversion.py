"""Inversion: attackers reconstruct clear images, and what they recover is measured on people they never saw.

An attack is a decoder for one observation and one seed (torchkit.task.attack_task). All attacks of a seed that see the
obfuscated image start from one decoder that was trained on it alone; all take as many steps on the same images.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pytorch_msssim import ssim
from torch import Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio

from torchkit.attack.decoder import Decoder
from torchkit.attack.recording import RecordedFaces, as_input
from torchkit.server import Recogniser
from torchkit.util.files import atomic_write_bytes
from validation.measure.excess import METRICS
from validation.measure.reidentification import Gallery, judged, reidentify

MOST_PSNR_DB = 100.0
"""Of an image that is reconstructed exactly, whose ratio is infinite."""


@dataclass(frozen=True)
class Budget:
    """How much an attacker spends; the same for all observations."""

    images: int | None
    """That attackers learn from; None: all there are."""
    held_out_images: int | None
    """On which they are measured."""
    start_steps: int
    """Of a decoder that starts from random weights; with "O", others start from it."""
    steps: int
    """Of a decoder that starts from that of "O"."""
    batch_size: int
    width: int
    """Channels of the decoder at 28x28 pixels."""


BUDGETS: Mapping[str, Budget] = {
    "demo": Budget(None, None, start_steps=60, steps=30, batch_size=16, width=32),
    "small": Budget(4000, 500, start_steps=500, steps=200, batch_size=16, width=32),
    "full": Budget(None, None, start_steps=12_000, steps=6_000, batch_size=32, width=64),
}


def image_quality(reconstructed: Tensor, clear: Tensor) -> dict[str, np.ndarray]:
    """ "ssim" and "psnr" in dB of each of B images (B, 3, H, W) in [0, 1]; (B,) float64 each."""
    structure = ssim(reconstructed, clear, data_range=1.0, size_average=False)
    ratios = [
        peak_signal_noise_ratio(image, target, data_range=1.0)
        for image, target in zip(reconstructed, clear, strict=True)
    ]
    return {
        "ssim": structure.double().cpu().numpy(),
        "psnr": torch.stack(ratios).double().clamp(max=MOST_PSNR_DB).cpu().numpy(),
    }


@torch.inference_mode()
def reconstruct(decoder: Decoder, faces: RecordedFaces, arrays: Mapping[str, str], batch_size: int = 50) -> Tensor:
    """(n, 3, 112, 112) uint8 RGB.

    Args:
        decoder: of the attacker.
        faces: n recorded ones.
        arrays: name of an input -> the recorded array that is put there.
        batch_size: images at once.
    """
    device = decoder.mean_image.device
    decoder.eval()
    parts = np.array_split(np.arange(len(faces)), -(-len(faces) // batch_size))
    return torch.cat([to_pixels(decoder(faces.batch(arrays, part, device))).cpu() for part in parts])


def to_pixels(images: Tensor) -> Tensor:
    """Images in about [0, 1] -> uint8."""
    return images.float().clamp(0, 1).mul(255).round().to(torch.uint8)


def measure(
    reconstructed: Tensor, clear: np.ndarray, judge: Recogniser | None, gallery: Gallery | None
) -> dict[str, np.ndarray]:
    """The leakage metrics of reconstructions, (n,) float64 each, in the order of `METRICS`.

    Args:
        reconstructed: (n, 3, 112, 112) uint8 RGB.
        clear: the clear images, likewise.
        judge: recognises the reconstructions; None: they are compared as images alone.
        gallery: the clear images, as the judge sees them.
    """
    device = torch.device("cpu")
    quality = [
        image_quality(part.float() / 255, as_input(target, device))
        for part, target in zip(reconstructed.split(50), np.array_split(clear, range(50, len(clear), 50)), strict=True)
    ]
    found = {name: np.concatenate([part[name] for part in quality]) for name in quality[0]}
    if judge is not None and gallery is not None:
        found |= reidentify(judged(judge, reconstructed), gallery)
    return {name: found[name] for name in METRICS if name in found}


def save_measures(path: Path, measures: Mapping[str, np.ndarray], reconstructed: Tensor) -> None:
    """Write an attack's measures, and the reconstructions (n, 3, 112, 112) uint8 that they are of."""
    buffer = io.BytesIO()
    arrays: dict[str, Any] = {"reconstructed": reconstructed.numpy(), **measures}
    np.savez(buffer, **arrays)
    atomic_write_bytes(path, buffer.getvalue())


def load_measures(path: Path) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """What `save_measures` wrote."""
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    return arrays, arrays.pop("reconstructed")
