"""Validation: embeddings of a set of pairs, and their 10-fold accuracy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from benchmarks import baseline
from benchmarks.harness import Comparison, Sizes, require_close
from benchmarks.inputs import (
    CLIENT,
    KEY_SEED,
    SEED,
    calibrated,
    draw_validation_set,
    load_server,
    published_system,
)
from torchkit.client import Client, ClientSettings
from torchkit.system import ProFaceC
from torchkit.util.device import amp_dtype
from validation.measure.evaluate import Computation, cases, embed
from validation.protocol.verification import k_fold_accuracy

FOLDS = 10
CLEAR_TOLERANCE = 1e-5
"""How far the values of unit embeddings of clear images may be apart."""
MIN_COSINE = 0.99
"""Of embeddings of obfuscated images: the toolkit's are rounded to 8 bits, the baseline's not."""


def validation(folder: Path, sizes: Sizes) -> Comparison:
    recogniser = load_server(folder, sizes)
    settings = ClientSettings(
        server_shapes=tuple(recogniser.backbone.tap_shapes()),
        backbone=CLIENT,
        layout="published",
        shuffle_block_px=baseline.BLOCK_PX,
    )
    torch.manual_seed(SEED)
    client = Client(settings, KEY_SEED)
    calibrated(client.backbone)
    system = ProFaceC(client, recogniser).eval()
    published = published_system(folder, sizes).copy_weights(system)
    data = draw_validation_set(sizes.rows)
    rows = data.images[data.rows]

    def ours() -> dict[str, np.ndarray]:
        device = torch.device("cpu")
        amp = amp_dtype(sizes.amp, device)
        embeddings = embed(system, data, cases(["hybrid"]), SEED, Computation(device, baseline.BATCH_ROWS, amp=amp))
        return {condition.name: array for condition, array in embeddings.items()}

    return Comparison(
        lambda: baseline.embed_rows(published, rows, SEED), ours, lambda a, b: _check_embeddings(a, b, sizes.amp)
    )


def _check_embeddings(theirs: dict[str, np.ndarray], ours: dict[str, np.ndarray], amp: str) -> None:
    for name, expected in theirs.items():
        if name == "clear" and amp == "none":
            error = float(np.abs(ours[name] - expected).max())
            require_close("validation: the embeddings of clear images", error, CLEAR_TOLERANCE)
        else:
            error = 1 - float((ours[name] * expected).sum(axis=1).min())
            require_close(f"validation: (as 1 - cosine) the {name} embeddings", error, 1 - MIN_COSINE)


def metrics(_: Path, sizes: Sizes) -> Comparison:
    rng = np.random.default_rng(SEED)
    same = np.arange(sizes.pairs) % 2 == 0
    distances = np.clip(rng.normal(np.where(same, 1.0, 1.6), 0.3), 0, 4)
    return Comparison(
        lambda: baseline.k_fold_accuracy(distances, same, FOLDS),
        lambda: k_fold_accuracy(distances, same, FOLDS),
        _check_accuracy,
    )


def _check_accuracy(theirs: tuple[float, ...], ours: tuple[float, ...]) -> None:
    for name, a, b in zip(("mean accuracy", "deviation", "threshold"), theirs, ours, strict=True):
        require_close(f"metrics: {name}", abs(a - b), 0)
