"""Settings of validation/val_main.py. Edit the defaults here, or pass them as options.

Relative paths are relative to the project's folder.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from torchkit.obfuscation import EVALUATION_SEED
from validation.measure.conditions import DEFAULT_CONDITIONS

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Settings:
    backbone_resume: Path = ROOT / "model" / "ckpt" / "client.pth"
    """The client: a file written by train.py, or a published client state dict."""
    data_root: Path = ROOT / "Data" / "validation"
    """Folder with the validation sets: NAME/ + NAME_list.npy, or NAME.bin."""
    datasets: tuple[str, ...] = ("lfw", "cfp_fp", "agedb_30", "calfw", "cplfw")
    obfuscations: tuple[str, ...] = ("gaussian", "median", "pixelate", "hybrid")
    conditions: tuple[str, ...] = DEFAULT_CONDITIONS
    """The conditions to measure, see validation/measure/conditions.py."""
    fit_on: Path | None = None
    """Training set, INDEX_ROOT/NAME, on which conditions such as client_alone are fitted; None: none."""
    fit_data_root: Path | None = None
    """Folder of its images; None: INDEX_ROOT."""
    camera: str | None = None
    """Camera simulated on every image first: jpeg, shift, light; None: none."""
    server: str | None = None
    """Name of the recogniser; None: as in the client file."""
    server_checkpoint: Path | None = None
    """Its weights; None: as in the client file, else under model/."""
    channel_order: str | None = None
    """Colour order of the recogniser's input: rgb, bgr or auto; None: as in the client file."""
    batch_size: int = 64
    """Images embedded at once."""
    num_workers: int = field(default_factory=lambda: min(8, max(1, (os.cpu_count() or 1) - 1)))
    """Number of processes that obfuscate."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N."""
    amp: str = "auto"
    """Precision: bf16, none (float32), auto (bf16 where the device supports it)."""
    seed: int = EVALUATION_SEED
    """Seed of the hybrid obfuscation, together with each image's content, and of the bootstrap."""
    flip: bool = False
    """Fuse the embeddings of image and mirror image, like AdaFace's published accuracies; takes twice the time."""
    resamples: int = 1000
    """Number of bootstrap resamples for the 95 % intervals; 0: no intervals."""
    examples: int = 2
    """Number of faces of each set that report.html shows."""
    out: Path = ROOT / "runs" / "validation"
    """Folder for the results."""
    dump_embeddings: bool = False
    """Write OUT/embeddings/DATASET__OBFUSCATION__CONDITION.npz."""
