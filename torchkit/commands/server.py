"""Prepare the server of one client, and embed this client's messages.

    python -m torchkit.server export runs/demo/client.pth -o server.pth    recogniser and compensation in one file
    python -m torchkit.server embed messages/ --model server.pth -o embeddings/
    python -m torchkit.server embed face.pfc --model server.pth -o face.npy

The other side is `python -m torchkit.client`. COMMAND --help explains each.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from torchkit.commands import embed, export_server
from torchkit.util.cli import Command, parse_command, run_command

COMMANDS: dict[str, Command] = {"export": export_server, "embed": embed}


def parse_arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse `given`; None: the command line."""
    return parse_command(__doc__, "python -m torchkit.server", COMMANDS, given)


if __name__ == "__main__":
    parsed = parse_arguments()
    run_command(lambda: parsed.run(parsed), parsed.traceback)
