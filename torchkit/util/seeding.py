"""Random numbers: every stream comes from a named seed, none from global state at import."""

from __future__ import annotations

import hashlib

import numpy as np
import torch


def seed_everything(seed: int) -> None:
    """Seed torch (weights). Data randomness has streams of its own, see `stream`."""
    torch.manual_seed(seed)


def seed_step(seed: int, step: int) -> None:
    """Seed torch for a training step, so that what it draws depends neither on earlier steps nor on the rank."""
    torch.manual_seed(int(stream(seed, "step", step).integers(2**63)))


def stream(*names: int | str) -> np.random.Generator:
    """Return a generator that depends on `names` alone, e.g. `stream(seed, "train", epoch, index)`."""
    digest = hashlib.blake2b("/".join(map(str, names)).encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))


def content_stream(image: np.ndarray, *names: int | str) -> np.random.Generator:
    """Return a generator that depends on the image's bytes and `names`, so that the order of images does not matter."""
    digest = hashlib.blake2b(np.ascontiguousarray(image).tobytes(), digest_size=16).hexdigest()
    return stream(digest, *names)
