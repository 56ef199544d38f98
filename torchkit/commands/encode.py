"""Encode aligned 112x112 faces as messages (docs/payload.md).

    python -m torchkit.client encode face.jpg -m phone.pth -o face.pfc
    python -m torchkit.client encode faces/ -m phone.pth -o messages/ --obfuscation gaussian

IN is an image (JPEG, PNG, BMP, WebP) and OUT the message; or IN is a folder and OUT gets the same tree of messages.
Existing messages are kept: a stopped run continues where it stopped. An image that cannot be used is named, the
others are encoded all the same, and the exit code is 2.

Images are obfuscated as in validation: with the same seed, a message gives the embedding that validation measures.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from torchkit.client.encoder import Encoder
from torchkit.commands.convert import MESSAGE_SUFFIX, add_batch_arguments, convert_files, find_conversions
from torchkit.data.images import EXTENSIONS, read_face
from torchkit.obfuscation import EVALUATION_SEED, KINDS, evaluation_image
from torchkit.system import load_client_file, restore_client
from torchkit.util.cli import CommandParser
from torchkit.util.device import pick_device

HELP = "images -> messages"


def add_arguments(parser: CommandParser) -> None:
    parser.add_argument("source", type=Path, metavar="IN", help="image, or folder of images")
    parser.option("model", short="m", type=Path, required=True, metavar="FILE", help="client file")
    parser.option("out", short="o", required=True, metavar="OUT", help="message, or folder of messages")
    parser.option("obfuscation", choices=KINDS, default="hybrid", help="kind of obfuscation")
    parser.option("seed", default=EVALUATION_SEED, help="seed of the hybrid")
    add_batch_arguments(parser)


def run(arguments: argparse.Namespace) -> None:
    conversions = find_conversions(arguments.source, arguments.out, EXTENSIONS, MESSAGE_SUFFIX)
    client = restore_client(load_client_file(arguments.model), str(arguments.model))
    client.to(pick_device(arguments.device)).to(memory_format=torch.channels_last)
    encoder = Encoder(client)
    kind, seed = arguments.obfuscation, arguments.seed

    def messages(images: list[np.ndarray]) -> list[bytes]:
        obfuscated = [evaluation_image(image, kind, seed) for image in images]
        return encoder.messages(images, obfuscated)

    outcome = convert_files(conversions, _read_image, messages, arguments.batch_size, arguments.overwrite)
    print(f"messages: {arguments.out} ({outcome}), of client {encoder.fingerprint.hex()}")


def _read_image(path: Path) -> np.ndarray:
    return read_face(path, str(path))
