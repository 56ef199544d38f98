"""Write a server file from a client file and the weights of its recogniser.

    python -m torchkit.server export runs/demo/client.pth -o server.pth
    python -m torchkit.server export model/ckpt/client.pth --server ir_50 --server-checkpoint ir50.ckpt -o server.pth

The server file holds the recogniser, the compensation weights and the fingerprint of the client whose messages it
reads; it holds neither the client nor its key. Export it where the client was trained.

Without --server and --server-checkpoint, the client file names the recogniser and the path of its weights; if that
file is missing, the weights are looked for under model/.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from torchkit.client.encoder import coding_of, fingerprint
from torchkit.system import load_system, save_server_file
from torchkit.util.cli import CommandParser
from torchkit.util.pixels import CHANNEL_ORDERS

HELP = "client file -> server file"


def add_arguments(parser: CommandParser) -> None:
    parser.add_argument("client", type=Path, metavar="CLIENT.pth", help="client file, as train.py writes it")
    parser.option("out", short="o", required=True, metavar="FILE", help="server file")
    parser.option("server", metavar="NAME", help="recogniser (as the client file says)")
    parser.option("server-checkpoint", type=Path, metavar="FILE", help="its weights (as the client file says)")
    parser.option(
        "channel-order", choices=["auto", *CHANNEL_ORDERS], help="colours it is fed (as the client file says)"
    )


def run(arguments: argparse.Namespace) -> None:
    system = load_system(arguments.client, arguments.server, arguments.server_checkpoint, arguments.channel_order)
    client_name = fingerprint(system.client)
    save_server_file(arguments.out, system.server, system.client.feature_shapes, client_name, coding_of(system.client))
    print(f"server: {arguments.out}, {system.recogniser.name}, for client {client_name.hex()}")
