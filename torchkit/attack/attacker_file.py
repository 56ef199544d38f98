"""The file that an attack leaves: a decoder, and what it decodes."""

from __future__ import annotations

from pathlib import Path

import torch

from torchkit.attack.decoder import Decoder, InputShape
from torchkit.util.weights import load_state, load_weights_file, plain_state, save_weights_file

FORMAT = "proface-c attacker"
FORMAT_VERSION = 1
INPUT_MODULES = ("standardise", "adapters", "shortcuts")
"""Modules of a decoder that belong to its inputs."""


def save_attacker(path: Path, decoder: Decoder, observation: str) -> None:
    """Write a decoder, whole or not at all."""
    inputs = {name: [list(spec.shape), spec.blocks_per_side] for name, spec in decoder.inputs.items()}
    contents = {"format": FORMAT, "version": FORMAT_VERSION, "observation": observation, "inputs": inputs}
    save_weights_file(path, contents | {"width": decoder.width, "decoder": plain_state(decoder)})


def load_attacker(path: Path) -> Decoder:
    """The decoder of an attacker, in evaluation mode.

    Raises:
        FileNotFoundError, ValueError: missing, damaged or something else.
    """
    contents = load_weights_file(path, "attacker")
    if not isinstance(contents, dict) or contents.get("format") != FORMAT:
        raise ValueError(f"{path} is no attacker: expected the attacker.pth of a run with TASK: attack")
    if contents.get("version") != FORMAT_VERSION:
        raise ValueError(f"{path} has version {contents.get('version')}; this program reads version {FORMAT_VERSION}")
    try:
        inputs = {name: InputShape(tuple(shape), blocks) for name, (shape, blocks) in contents["inputs"].items()}
        decoder = Decoder(inputs, contents["width"], torch.zeros_like(contents["decoder"]["mean_image"]))
        load_state(decoder, dict(contents["decoder"]), str(path))
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is an attacker, but damaged: {error!r}") from error
    return decoder.eval()


def start_from(decoder: Decoder, start: Decoder, where: str) -> None:
    """Take over what two decoders share; what only the new one has, its way in for more inputs, stays as it is.

    Raises:
        ValueError: the other decoder has inputs that this one lacks, or another width.
    """
    state = plain_state(start)
    own = plain_state(decoder)
    added = {key: own[key] for key in own if key not in state and key.split(".")[0] in INPUT_MODULES}
    load_state(decoder, state | added, where)
