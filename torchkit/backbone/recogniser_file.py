"""Weights of recognisers on disk: third-party PyTorch files, and this project's recogniser file.

A recogniser file is what `ServerTask` exports: a state dict with the name of its network and the colour order that it
was trained in.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from torchkit.util.container import Container
from torchkit.util.pixels import CHANNEL_ORDERS
from torchkit.util.weights import load_weights_file, plain_state, state_dict_of

RECOGNISER_FILE = Container("recogniser file", "proface-c recogniser")
# Entry of the network's state in the checkpoints of arcface_torch.
ARCFACE_TORCH_STATE = "state_dict_backbone"
# Prefix that DistributedDataParallel adds to each name.
PARALLEL_PREFIX = "module."


@dataclass(frozen=True)
class RecogniserWeights:
    """The contents of a file."""

    state: dict[str, Tensor]
    network: str | None = None
    """Key of NETWORKS; None: not in the file."""
    channel_order: str | None = None
    """Colour order that the weights were trained with; None: not in the file."""


def save_recogniser_file(path: Path, network: str, backbone: nn.Module, channel_order: str, trained_steps: int) -> None:
    """Write a recogniser, whole or not at all; the same weights give the same bytes."""
    contents = {
        "network": network,
        "channel_order": channel_order,
        "state_dict": plain_state(backbone),
        "trained_steps": trained_steps,
    }
    RECOGNISER_FILE.write(path, contents)


def read_recogniser_weights(path: Path) -> RecogniserWeights:
    """Read a recogniser file, a state dict, or one under `state_dict` (Lightning) or `state_dict_backbone`.

    Raises:
        FileNotFoundError, ValueError: missing, damaged or something else.
    """
    contents = load_weights_file(path, "server checkpoint")
    if RECOGNISER_FILE.is_format_of(contents):
        return _parse(contents, path)
    if isinstance(contents, dict) and ARCFACE_TORCH_STATE in contents:
        contents = contents[ARCFACE_TORCH_STATE]
    return RecogniserWeights(_without_prefix(state_dict_of(contents, path)))


def _parse(contents: dict[str, Any], path: Path) -> RecogniserWeights:
    RECOGNISER_FILE.check_version(contents, path)
    with RECOGNISER_FILE.parsing(path):
        network, order = contents["network"], contents["channel_order"]
        if not isinstance(network, str) or order not in CHANNEL_ORDERS:
            raise ValueError(f"network {network!r}, channel order {order!r}")
        return RecogniserWeights(state_dict_of(contents, path), network, order)


def _without_prefix(state: dict[str, Tensor]) -> dict[str, Tensor]:
    if not all(str(key).startswith(PARALLEL_PREFIX) for key in state):
        return state
    return {key.removeprefix(PARALLEL_PREFIX): tensor for key, tensor in state.items()}
