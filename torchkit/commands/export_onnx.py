"""Write a client's network as ONNX; needs the package onnx. A client file for a phone is accepted too.

    python -m torchkit.client onnx phone.pth -o client.onnx

Input `prepared`: (B, 3, 112, 112) float32, clear minus obfuscated in [-2, 2]; for a client with INPUT: both, the
obfuscated image in [-1, 1] as three more channels. Outputs `tap_1` to `tap_4`: the features as they are sent. The file
holds the key: give it to phones only.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from torchkit.client.encoder import fingerprint
from torchkit.client.onnx import export_onnx
from torchkit.system import load_client_file, restore_client
from torchkit.util.cli import CommandParser

HELP = "client network as ONNX"


def add_arguments(parser: CommandParser) -> None:
    parser.add_argument("model", type=Path, metavar="CLIENT.pth", help="client file")
    parser.option("out", short="o", required=True, metavar="FILE", help="ONNX file")


def run(arguments: argparse.Namespace) -> None:
    client = restore_client(load_client_file(arguments.model), str(arguments.model))
    export_onnx(client, arguments.out)
    print(f"ONNX: {arguments.out}, client {fingerprint(client).hex()}")
