"""Images of a training set, for conditions that are fitted."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from torchkit.data.index import read_index

FIT_IMAGES = 4096
"""Most images that a condition is fitted on: their features must fit in memory."""


def read_training_images(index: Path, data_root: Path | None = None, limit: int = FIT_IMAGES) -> np.ndarray:
    """Read up to `limit` images of a training set, evenly spread over it: (M, 3, 112, 112) uint8 RGB.

    Args:
        index: INDEX_ROOT/NAME of the set.
        data_root: folder of its images; None: INDEX_ROOT.
        limit: greatest number of images.

    Raises:
        FileNotFoundError, ValueError: as `read_index`; an image that is missing or damaged.
    """
    images = read_index(index.parent, data_root or index.parent, index.name)
    positions = np.linspace(0, len(images), min(limit, len(images)), endpoint=False).astype(int)
    return np.stack([images.read(int(position)).transpose(2, 0, 1) for position in positions])
