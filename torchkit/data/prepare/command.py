"""Prepare data for training and evaluation.

    python -m torchkit.data.prepare celeba --root Data/CelebA               train.yaml's images and index
    python -m torchkit.data.prepare folder --root Data/mine --name mine --holdout 12 --pairs 1200
    python -m torchkit.data.prepare lfw --root lfw --pairs lfw/pairs.txt --landmarks lfw_landmark.txt
    python -m torchkit.data.prepare pairs --root Data/faces --pairs Data/faces/val_pairs.txt --name faces
    python -m torchkit.data.prepare bin downloads/agedb_30.bin --out Data/validation
    python -m torchkit.data.prepare verify --set Data/validation/agedb_30
    python -m torchkit.data.prepare demo

What comes out are 112x112 faces, aligned by five points to the ArcFace template; an index for training, a line
`relative/path label` an image; validation sets, a bcolz folder NAME/ and NAME_list.npy. COMMAND --help explains each.
A run that was stopped leaves nothing half-written, and goes on where it stopped when it is started again.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Protocol

from torchkit.data.prepare import bin_files, celeba, demo, folder, lfw, pairs, verify


class Command(Protocol):
    """A module of this package; its docstring is what `--help` teaches."""

    HELP: str

    def add_arguments(self, parser: argparse.ArgumentParser) -> None: ...

    def run(self, arguments: argparse.Namespace) -> None: ...


COMMANDS: dict[str, Command] = {
    "celeba": celeba,
    "folder": folder,
    "lfw": lfw,
    "pairs": pairs,
    "bin": bin_files,
    "verify": verify,
    "demo": demo,
}


def parse_arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line, or `given` in its place."""
    summary, _, details = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        prog="python -m torchkit.data.prepare",
        description=summary,
        epilog=details,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        one = commands.add_parser(
            name,
            help=command.HELP,
            description=command.__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_arguments(one)
        one.add_argument("--traceback", action="store_true", help="show where in the code an error arose")
    return parser.parse_args(given)


def main(arguments: argparse.Namespace) -> None:
    COMMANDS[arguments.command].run(arguments)
