"""Messages of a client -> embeddings, float32 of unit length, as NumPy files.

    python -m torchkit.server embed face.pfc --model server.pth -o face.npy
    python -m torchkit.server embed messages/ --model server.pth -o embeddings/

IN is a message (.pfc) and OUT an embedding (.npy), an array (D,); or IN is a folder and OUT gets the same tree of
embeddings. Existing embeddings are kept. A message that is damaged or of another client is named, the others are
embedded all the same, and the exit code is 2.

Two faces count as the same person if the squared distance of their embeddings is below a threshold, e.g. the one that
validation/val_main.py reports.
"""

from __future__ import annotations

import argparse
import io
from functools import partial
from pathlib import Path

import numpy as np
import torch

from torchkit.commands.convert import MESSAGE_SUFFIX, add_batch_arguments, convert_files, find_conversions
from torchkit.payload import Payload, PayloadError
from torchkit.payload.limits import MAX_MESSAGE_BYTES
from torchkit.server.decoder import Decoder
from torchkit.system import load_server_file
from torchkit.util.cli import CommandParser
from torchkit.util.device import pick_device

HELP = "messages -> embeddings"


def add_arguments(parser: CommandParser) -> None:
    parser.add_argument("source", type=Path, metavar="IN", help="message, or folder of messages")
    parser.option("model", short="m", type=Path, required=True, metavar="FILE", help="server file")
    parser.option("out", short="o", required=True, metavar="OUT", help="embedding, or folder of embeddings")
    add_batch_arguments(parser)


def run(arguments: argparse.Namespace) -> None:
    conversions = find_conversions(arguments.source, arguments.out, [MESSAGE_SUFFIX], ".npy")
    decoder = load_server_file(arguments.model)
    decoder.server.to(pick_device(arguments.device)).to(memory_format=torch.channels_last)

    def embeddings(payloads: list[Payload]) -> list[bytes]:
        return [npy(embedding) for embedding in decoder(payloads)]

    outcome = convert_files(
        conversions, partial(read_message, decoder), embeddings, arguments.batch_size, arguments.overwrite
    )
    print(f"embeddings: {arguments.out} ({outcome})")


def read_message(decoder: Decoder, path: Path) -> Payload:
    """Read a message of unknown origin for `decoder`, at most as many bytes as a message may have.

    Raises:
        OSError: it cannot be read.
        PayloadError: not a message, or one of another client; the error names the file.
    """
    with path.open("rb") as file:
        data = file.read(MAX_MESSAGE_BYTES + 1)
    try:
        return decoder.read(data)
    except PayloadError as error:
        raise PayloadError(f"{path}: {error}") from error


def npy(array: np.ndarray) -> bytes:
    """Return the bytes of `array` as a .npy file."""
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=False)
    return stream.getvalue()
