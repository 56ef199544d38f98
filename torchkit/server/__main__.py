"""What a server does with the messages of one client, and what it needs for that.

    python -m torchkit.server export runs/demo/client.pth -o server.pth    recogniser and compensation in one file
    python -m torchkit.server embed messages/ --model server.pth -o embeddings/
    python -m torchkit.server embed face.pfc --model server.pth -o face.npy

The other side is `python -m torchkit.client`. COMMAND --help explains each.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch

from torchkit.data.convert import add_batch_arguments, convert_files, find_conversions
from torchkit.payload import Payload, PayloadError, decode
from torchkit.payload.limits import MAX_MESSAGE_BYTES
from torchkit.server.decoder import Decoder
from torchkit.server.file import load_server_file, save_server_file
from torchkit.util.cli import run_command
from torchkit.util.device import pick_device
from torchkit.util.pixels import CHANNEL_ORDERS

EXPORT = """A client file and the weights of its recogniser -> a server file.

    python -m torchkit.server export runs/demo/client.pth -o server.pth
    python -m torchkit.server export model/ckpt/client.pth --server ir_50 --server-checkpoint ir50.ckpt -o server.pth

The server file holds the recogniser, the compensation weights and the name of the client whose messages it
understands; it holds neither the client nor its key. It is made where the client was trained.

Without --server and --server-checkpoint the client file says which recogniser it is and where its weights are; if they
are not there any more, they are looked for under model/.
"""
EMBED = """Messages of a client -> embeddings, float32 of unit length, as NumPy files.

    python -m torchkit.server embed face.pfc --model server.pth -o face.npy
    python -m torchkit.server embed messages/ --model server.pth -o embeddings/

IN is a message (.pfc) and OUT an embedding (.npy), an array (D,); or IN is a folder and OUT gets the same tree of
embeddings. Embeddings that are there already are kept. A message that is damaged or of another client is named, the
others are embedded all the same, and the exit code is 2.

Two faces are of one person if the squared distance of their embeddings is below a threshold, e.g. the one that
validation/val_main.py reports.
"""


def parse_arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line, or `given` in its place."""
    summary, _, details = (__doc__ or "").partition("\n\n")
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="python -m torchkit.server", description=summary, epilog=details, formatter_class=raw
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    one = commands.add_parser("export", help="client file -> server file", description=EXPORT, formatter_class=raw)
    one.add_argument("client", type=Path, metavar="CLIENT.pth", help="client file, as train.py writes it")
    one.add_argument("-o", "--out", type=Path, required=True, metavar="FILE", help="server file")
    one.add_argument("--server", metavar="NAME", help="recogniser (as the client file says)")
    one.add_argument("--server-checkpoint", type=Path, metavar="FILE", help="its weights (as the client file says)")
    one.add_argument(
        "--channel-order", choices=["auto", *CHANNEL_ORDERS], help="colours it is fed (as the client file says)"
    )
    one.set_defaults(run=run_export)

    one = commands.add_parser("embed", help="messages -> embeddings", description=EMBED, formatter_class=raw)
    one.add_argument("source", type=Path, metavar="IN", help="message, or folder of messages")
    one.add_argument("-m", "--model", type=Path, required=True, metavar="FILE", help="server file")
    one.add_argument("-o", "--out", type=Path, required=True, metavar="OUT", help="embedding, or folder of embeddings")
    add_batch_arguments(one)
    one.set_defaults(run=run_embed)

    for one in commands.choices.values():
        one.add_argument("--traceback", action="store_true", help="show where in the code an error arose")
    return parser.parse_args(given)


def run_export(arguments: argparse.Namespace) -> None:
    # Here, not above: only who trained the client has it, and the server that embeds needs nothing of it.
    from torchkit.client.encoder import fingerprint
    from torchkit.trained import load_system

    given = arguments.server, arguments.server_checkpoint, arguments.channel_order
    system = load_system(arguments.client, *given)
    name = fingerprint(system.client)
    save_server_file(arguments.out, system.server, system.client.feature_shapes, name)
    print(f"server: {arguments.out}, {system.recogniser.name}, for client {name.hex()}")


def run_embed(arguments: argparse.Namespace) -> None:
    conversions = find_conversions(arguments.source, arguments.out, [".pfc"], ".npy")
    decoder = load_server_file(arguments.model)
    decoder.server.to(pick_device(arguments.device)).to(memory_format=torch.channels_last)

    def embeddings(payloads: list[Payload]) -> list[bytes]:
        return [npy(embedding) for embedding in decoder(payloads)]

    done = convert_files(
        conversions, partial(read_message, decoder), embeddings, arguments.batch_size, arguments.overwrite
    )
    print(f"embeddings: {arguments.out} ({done})")


def read_message(decoder: Decoder, path: Path) -> Payload:
    """Read a message of unknown origin for `decoder`, and no more of the file than a message may have.

    Raises:
        OSError: it cannot be read.
        PayloadError: no message, or one of another client; the error names the file.
    """
    with path.open("rb") as file:
        data = file.read(MAX_MESSAGE_BYTES + 1)
    try:
        payload = decode(data)
        decoder.check(payload)
    except PayloadError as error:
        raise PayloadError(f"{path}: {error}") from error
    return payload


def npy(array: np.ndarray) -> bytes:
    """`array` as a .npy file."""
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=False)
    return stream.getvalue()


if __name__ == "__main__":
    parsed = parse_arguments()
    run_command(lambda: parsed.run(parsed), parsed.traceback)
