"""The hybrid at its evaluation settings, one image after the other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from benchmarks import baseline
from benchmarks.harness import Comparison, Sizes, one_thread, require_close
from benchmarks.inputs import SEED, draw_images
from torchkit.obfuscation import obfuscate
from torchkit.util.seeding import content_stream

MAX_GREY_LEVELS = 1
MIN_PIXELS = 0.999
"""Share of the pixels that may not be further apart than MAX_GREY_LEVELS."""


def obfuscation(_: Path, sizes: Sizes) -> Comparison:
    batch = draw_images(sizes.images, SEED)
    images = [np.ascontiguousarray(chw.transpose(1, 2, 0)) for chw in batch]

    def theirs() -> np.ndarray:
        return baseline.to_uint8(torch.cat([baseline.evaluation_hybrid(chw, SEED) for chw in batch]))

    def ours() -> np.ndarray:
        obfuscated = [obfuscate(image, "hybrid", content_stream(image, SEED, "hybrid")) for image in images]
        return np.stack(obfuscated).transpose(0, 3, 1, 2)

    return Comparison(one_thread(theirs), one_thread(ours), _check_pixels)


def _check_pixels(theirs: np.ndarray, ours: np.ndarray) -> None:
    far = np.abs(theirs.astype(int) - ours) > MAX_GREY_LEVELS
    require_close("obfuscation: too large a share of the pixels", float(far.mean()), 1 - MIN_PIXELS)
