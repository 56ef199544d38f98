"""Write the client file for a phone.

    python -m torchkit.client export runs/demo/client.pth -o phone.pth

It holds the client and its key, but neither the compensation weights nor the path of the server's weights, which only
the server needs. Published client weights are accepted too.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from torchkit.client.encoder import fingerprint
from torchkit.system import load_client_file, restore_client, save_phone_file
from torchkit.util.cli import CommandParser

HELP = "client file for a phone"


def add_arguments(parser: CommandParser) -> None:
    parser.add_argument("model", type=Path, metavar="CLIENT.pth", help="client file")
    parser.option("out", short="o", required=True, metavar="FILE", help="client file for a phone")


def run(arguments: argparse.Namespace) -> None:
    file = load_client_file(arguments.model)
    client = restore_client(file, str(arguments.model))
    save_phone_file(arguments.out, client, file.server, file.trained_steps)
    print(f"for phones: {arguments.out}, client {fingerprint(client).hex()}")
