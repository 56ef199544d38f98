"""python -m torchkit.data.prepare in this process, for the tests."""

from __future__ import annotations

from collections.abc import Sequence

from torchkit.commands.prepare import parse_arguments


def prepare_data(arguments: Sequence[str]) -> None:
    """Run the command line `arguments`; errors are raised."""
    parsed = parse_arguments(arguments)
    parsed.run(parsed)
