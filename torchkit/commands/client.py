"""Prepare a trained client for phones, and encode faces with it.

    python -m torchkit.client export runs/demo/client.pth -o phone.pth     the client file for a phone
    python -m torchkit.client encode faces/ -m phone.pth -o messages/      images -> messages (.pfc)
    python -m torchkit.client encode face.jpg -m phone.pth -o face.pfc
    python -m torchkit.client onnx phone.pth -o client.onnx                the network for another runtime

The other side is `python -m torchkit.server`. COMMAND --help explains each.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from torchkit.commands import encode, export_client, export_onnx
from torchkit.util.cli import Command, parse_command, run_command

COMMANDS: dict[str, Command] = {"encode": encode, "export": export_client, "onnx": export_onnx}


def parse_arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse `given`; None: the command line."""
    return parse_command(__doc__, "python -m torchkit.client", COMMANDS, given)


if __name__ == "__main__":
    parsed = parse_arguments()
    run_command(lambda: parsed.run(parsed), parsed.traceback)
