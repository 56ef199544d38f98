"""Code unit embeddings in 1 or 2 bits a value, for a client that runs the whole recogniser itself.

After a random rotation, each of the D values of a unit vector is nearly Gaussian with variance 1 / D (as in RaBitQ, Gao
and Long, SIGMOD 2024, arXiv 2405.12497). Each is quantised by the Lloyd-Max quantiser of the Gaussian (Max, IRE Trans.
Inf. Theory 1960), which with 1 bit is the sign.
"""

from __future__ import annotations

import math
from itertools import pairwise
from statistics import NormalDist

import numpy as np
import torch
from torch import Tensor

from torchkit.payload import FREQUENCY_TOTAL, Coding, TapCoding, TapFeatures

ROTATION_SEED = 0
"""Both parties know the rotation; it is no key."""
TOLERANCE = 1e-12


def lloyd_max(bits: int) -> tuple[list[float], list[float]]:
    """Thresholds (2^bits - 1) and levels (2^bits) of the quantiser with the least squared error on N(0, 1).

    Lloyd's iteration: each threshold half-way between its levels, each level the mean of its cell.
    """
    normal = NormalDist()
    count = 2**bits
    levels = [normal.inv_cdf((index + 0.5) / count) for index in range(count)]
    while True:
        thresholds = [(low + high) / 2 for low, high in pairwise(levels)]
        ends = [-math.inf, *thresholds, math.inf]
        means = [
            (_density(low) - _density(high)) / (normal.cdf(high) - normal.cdf(low)) for low, high in pairwise(ends)
        ]
        if max(abs(mean - level) for mean, level in zip(means, levels, strict=True)) < TOLERANCE:
            return thresholds, means
        levels = means


def _density(x: float) -> float:
    """Of N(0, 1); 0 at the infinities."""
    return math.exp(-x * x / 2) / math.sqrt(2 * math.pi)


def random_rotation(size: int, seed: int = ROTATION_SEED) -> Tensor:
    """A uniformly random orthogonal matrix (size, size) float32: QR of a Gaussian one, R with positive diagonal."""
    q, r = np.linalg.qr(np.random.default_rng(seed).standard_normal((size, size)))
    return torch.from_numpy((q * np.sign(np.diagonal(r))).astype(np.float32))


class EmbeddingCode:
    """Unit embeddings as codes of a few bits and back.

    Args:
        size: D, values of an embedding.
        bits: of a code.
    """

    def __init__(self, size: int, bits: int) -> None:
        self.bits = bits
        self.rotation = random_rotation(size)
        thresholds, levels = lloyd_max(bits)
        scale = 1 / math.sqrt(size)
        self.thresholds = scale * torch.tensor(thresholds, dtype=torch.float32)
        self.levels = scale * torch.tensor(levels, dtype=torch.float32)

    def encode(self, embeddings: Tensor) -> Tensor:
        """(B, D), unit length -> (B, D) int64 codes 0..2^bits - 1."""
        rotated = embeddings @ self.rotation.to(embeddings.device)
        return torch.bucketize(rotated, self.thresholds.to(embeddings.device))

    def tap(self, codes: np.ndarray) -> TapFeatures:
        """Codes (D,) of one embedding as a message carries them, whose codes are signed."""
        signed = 2 * codes - 1 if self.bits == 1 else codes - 2 ** (self.bits - 1)
        values = signed.astype(np.int8)[:, None, None]
        return TapFeatures((len(codes), 1, 1), np.arange(len(codes)), self.bits, 1.0, values)

    def coding(self, fingerprint: bytes) -> Coding:
        """For messages of version 2: all codes are equally frequent, or nearly so."""
        size, values = len(self.rotation), 2**self.bits
        uniform = np.full((size, 1, values), FREQUENCY_TOTAL // values, np.int64)
        return Coding(fingerprint, (TapCoding((size, 1, 1), np.arange(size), self.bits, 1.0, uniform),))

    def decode(self, codes: Tensor) -> Tensor:
        """(B, D) codes -> embeddings (B, D), of about unit length."""
        return self.levels.to(codes.device)[codes] @ self.rotation.T.to(codes.device)
