"""Distances and decisions of every pair, kept so that two results can be compared on the same pairs.

OUT/pairs_DATASET.npz holds, without a pickle: `same` (n,) bool, `labels` (K,) text, `distances` (K, n) float32,
`correct` (K, n) bool, and `digest`, a text that tells whether two files are about the same images in the same order.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from torchkit.util.files import atomic_write_bytes
from validation.protocol.verification import Verification

if TYPE_CHECKING:
    from torchkit.data.validation_set import ValidationSet

_FIELDS = ("same", "labels", "distances", "correct", "digest")


@dataclass(frozen=True, eq=False)
class PairScores:
    """The pairs of a validation set under K conditions.

    Attributes:
        dataset: name of the set.
        digest: of the set's images and pairs, see `digest_of`.
        same: (n,) bool; whether pair k shows one person.
        labels: K labels as from `validation.report.label`.
        distances: (K, n) squared L2.
        correct: (K, n) bool; whether the LFW protocol decides pair k rightly.
    """

    dataset: str
    digest: str
    same: np.ndarray
    labels: tuple[str, ...]
    distances: np.ndarray
    correct: np.ndarray

    def correct_of(self, label: str) -> np.ndarray:
        """(n,) bool; the decisions under one label."""
        return self.correct[self.labels.index(label)]


def score_pairs(
    data: ValidationSet, distances: Mapping[str, np.ndarray], results: Mapping[str, Verification]
) -> PairScores:
    """The distances (n,) and the decisions of the LFW protocol under each label."""
    return PairScores(
        dataset=data.name,
        digest=digest_of(data),
        same=data.same,
        labels=tuple(distances),
        distances=np.stack(list(distances.values())),
        correct=np.stack([results[label].correct for label in distances]),
    )


def digest_of(data: ValidationSet) -> str:
    """A text that is the same for the same images in the same pairs."""
    digest = hashlib.blake2b(digest_size=16)
    for array in (data.images, data.rows.astype("<i8"), data.same):
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def pairs_file(out: Path, dataset: str) -> Path:
    return out / f"pairs_{dataset}.npz"


def write_pairs(out: Path, scores: PairScores) -> Path:
    """Write OUT/pairs_DATASET.npz and return its path."""
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        same=scores.same,
        labels=np.array(scores.labels),
        distances=scores.distances.astype(np.float32),
        correct=scores.correct,
        digest=np.array(scores.digest),
    )
    path = pairs_file(out, scores.dataset)
    atomic_write_bytes(path, buffer.getvalue())
    return path


def read_pairs(out: Path, dataset: str) -> PairScores:
    """Read OUT/pairs_DATASET.npz.

    Raises:
        FileNotFoundError: there is none.
        ValueError: the file is damaged or not from `write_pairs`.
    """
    path = pairs_file(out, dataset)
    if not path.is_file():
        raise FileNotFoundError(f"{path} not found: run val_main.py again with --out {out}; it writes this file")
    try:
        with np.load(path, allow_pickle=False) as file:
            same, labels, distances, correct, digest = (file[name] for name in _FIELDS)
    except (KeyError, ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is damaged or no file of val_main.py's ({error}): evaluate again") from error
    shape = (labels.size, same.size)
    if not (labels.ndim == same.ndim == 1 and distances.shape == correct.shape == shape and digest.shape == ()):
        raise ValueError(
            f"{path} holds distances {distances.shape} and decisions {correct.shape} for {labels.size} conditions and "
            f"{same.size} pairs, expected {shape} of each: evaluate again"
        )
    if (same.dtype, correct.dtype, distances.dtype, labels.dtype.kind) != (bool, bool, np.float32, "U"):
        raise ValueError(f"{path} holds other types than val_main.py writes: evaluate again")
    return PairScores(dataset, str(digest), same, tuple(map(str, labels)), distances, correct)
