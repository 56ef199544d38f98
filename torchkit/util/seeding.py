"""Random numbers: every stream comes from a named seed, none from global state at import."""

from __future__ import annotations

import hashlib

import numpy as np
import torch


def seed_everything(seed: int) -> None:
    """Seed torch (weights, dropout). Data randomness has streams of its own, see `stream`."""
    torch.manual_seed(seed)


def stream(*names: int | str) -> np.random.Generator:
    """A generator that depends on `names` alone, e.g. `stream(seed, "train", epoch, index)`."""
    digest = hashlib.blake2b("/".join(map(str, names)).encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))


def content_stream(image: np.ndarray, *names: int | str) -> np.random.Generator:
    """A generator that depends on the picture's bytes and `names`, so that runs repeat in any order."""
    digest = hashlib.blake2b(np.ascontiguousarray(image).tobytes(), digest_size=16).hexdigest()
    return stream(digest, *names)


def rng_state() -> dict[str, torch.Tensor]:
    """State of torch's generators, for a checkpoint."""
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def restore_rng_state(state: dict[str, torch.Tensor]) -> None:
    """Undo `rng_state`; a CUDA state is skipped on a machine without CUDA."""
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
