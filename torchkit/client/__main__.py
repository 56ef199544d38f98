"""What a phone does with a trained client, and what it needs for that.

    python -m torchkit.client export runs/demo/client.pth -o phone.pth     the client file for a phone
    python -m torchkit.client encode faces/ -m phone.pth -o messages/      images -> messages (.pfc)
    python -m torchkit.client encode face.jpg -m phone.pth -o face.pfc
    python -m torchkit.client onnx phone.pth -o client.onnx                the network for another runtime

The other side is `python -m torchkit.server`. COMMAND --help explains each.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from torchkit.client.encoder import Encoder, fingerprint
from torchkit.client.onnx import INPUT, OUTPUTS, export_onnx
from torchkit.data.convert import add_batch_arguments, convert_files, find_conversions
from torchkit.data.images import EXTENSIONS, read_face
from torchkit.obfuscation import EVALUATION_SEED, KINDS, evaluation_image
from torchkit.payload import encode
from torchkit.system import load_client_file, restore_client, save_phone_file
from torchkit.util.cli import run_command
from torchkit.util.device import pick_device

SUFFIX = ".pfc"

ENCODE = """Aligned 112x112 faces -> messages, of the format in docs/payload.md.

    python -m torchkit.client encode face.jpg -m phone.pth -o face.pfc
    python -m torchkit.client encode faces/ -m phone.pth -o messages/ --obfuscation gaussian

IN is an image (JPEG, PNG, BMP, WebP) and OUT the message; or IN is a folder and OUT gets the same tree of messages.
Messages that are there already are kept: a stopped run goes on where it stopped. An image that cannot be used is
named, the others are encoded all the same, and the exit code is 2.

Images are obfuscated as in validation: with the same seed a message gives the embedding that validation measures.
"""
EXPORT = """A client file -> the client file for a phone.

    python -m torchkit.client export runs/demo/client.pth -o phone.pth

It holds the client and its key, but neither the compensation weights nor the place of the server's weights, which are
the server's business. Published client weights are taken as well.
"""
ONNX = f"""A client file, also that for a phone, -> the client network as ONNX. Needs the package onnx.

    python -m torchkit.client onnx phone.pth -o client.onnx

Input `{INPUT}`: (B, 3, 112, 112) float32, clear minus obfuscated in [-2, 2]; for a client with INPUT: both, the
obfuscated image in [-1, 1] as three more channels. Outputs {", ".join(f"`{name}`" for name in OUTPUTS)}: the
features as they are sent. The file holds the key: give it to phones only.
"""


def parse_arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line, or `given` in its place."""
    summary, _, details = (__doc__ or "").partition("\n\n")
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="python -m torchkit.client", description=summary, epilog=details, formatter_class=raw
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    one = commands.add_parser("encode", help="images -> messages", description=ENCODE, formatter_class=raw)
    one.add_argument("source", type=Path, metavar="IN", help="image, or folder of images")
    one.add_argument("-m", "--model", type=Path, required=True, metavar="FILE", help="client file")
    one.add_argument("-o", "--out", type=Path, required=True, metavar="OUT", help="message, or folder of messages")
    one.add_argument("--obfuscation", choices=KINDS, default="hybrid", help="kind of obfuscation (hybrid)")
    one.add_argument(
        "--seed", type=int, default=EVALUATION_SEED, metavar="N", help=f"of the hybrid ({EVALUATION_SEED})"
    )
    add_batch_arguments(one)
    one.set_defaults(run=run_encode)

    one = commands.add_parser("export", help="client file for a phone", description=EXPORT, formatter_class=raw)
    one.add_argument("model", type=Path, metavar="CLIENT.pth", help="client file")
    one.add_argument("-o", "--out", type=Path, required=True, metavar="FILE", help="client file for a phone")
    one.set_defaults(run=run_export)

    one = commands.add_parser("onnx", help="client network as ONNX", description=ONNX, formatter_class=raw)
    one.add_argument("model", type=Path, metavar="CLIENT.pth", help="client file")
    one.add_argument("-o", "--out", type=Path, required=True, metavar="FILE", help="ONNX file")
    one.set_defaults(run=run_onnx)

    for one in commands.choices.values():
        one.add_argument("--traceback", action="store_true", help="show where in the code an error arose")
    return parser.parse_args(given)


def run_encode(arguments: argparse.Namespace) -> None:
    conversions = find_conversions(arguments.source, arguments.out, EXTENSIONS, SUFFIX)
    client = restore_client(load_client_file(arguments.model), str(arguments.model))
    client.to(pick_device(arguments.device)).to(memory_format=torch.channels_last)
    encoder = Encoder(client)
    kind, seed = arguments.obfuscation, arguments.seed

    def messages(images: list[np.ndarray]) -> list[bytes]:
        obfuscated = [evaluation_image(image, kind, seed) for image in images]
        return [encode(payload) for payload in encoder(images, obfuscated)]

    done = convert_files(conversions, _read_image, messages, arguments.batch_size, arguments.overwrite)
    print(f"messages: {arguments.out} ({done}), of client {encoder.fingerprint.hex()}")


def _read_image(path: Path) -> np.ndarray:
    return read_face(path, str(path))


def run_export(arguments: argparse.Namespace) -> None:
    file = load_client_file(arguments.model)
    client = restore_client(file, str(arguments.model))
    save_phone_file(arguments.out, client, file.server, file.trained_steps)
    print(f"for phones: {arguments.out}, client {fingerprint(client).hex()}")


def run_onnx(arguments: argparse.Namespace) -> None:
    client = restore_client(load_client_file(arguments.model), str(arguments.model))
    export_onnx(client, arguments.out)
    print(f"ONNX: {arguments.out}, client {fingerprint(client).hex()}")


if __name__ == "__main__":
    parsed = parse_arguments()
    run_command(lambda: parsed.run(parsed), parsed.traceback)
