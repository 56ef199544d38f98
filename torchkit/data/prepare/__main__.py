"""python -m torchkit.data.prepare."""

from __future__ import annotations

from torchkit.data.prepare.command import main, parse_arguments
from torchkit.util.cli import run_command

if __name__ == "__main__":
    parsed = parse_arguments()
    run_command(lambda: main(parsed), parsed.traceback)
