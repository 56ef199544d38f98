"""Convert InsightFace's .bin sets to bcolz folders, as AdaFace's packages have them.

    python -m torchkit.data.prepare bin downloads/lfw.bin downloads/agedb_30.bin --out Data/validation

Evaluation reads .bin files directly; a bcolz folder starts faster, since its images are decoded already. No pickle
is executed. Writes OUT/lfw/ and OUT/lfw_list.npy for lfw.bin.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from torchkit.data.prepare.pairs import add_set_arguments
from torchkit.data.problems import stop
from torchkit.data.validation_set import write_validation_set
from torchkit.data.validation_set.bin_file import load_bin
from torchkit.util.cli import CommandParser

HELP = "InsightFace's .bin sets -> bcolz folders"


def add_arguments(parser: CommandParser) -> None:
    parser.add_argument("files", type=Path, nargs="+", metavar="SRC", help=".bin file; its name becomes the set's")
    add_set_arguments(parser)


def run(arguments: argparse.Namespace) -> None:
    for file in arguments.files:
        print(f"validation set: {prepare_bin(file, arguments.out)}")


def prepare_bin(file: Path, out: Path) -> Path:
    """Write the set in `file` as a bcolz folder under `out`, and return the folder.

    Raises:
        FileNotFoundError: no such file.
        ValueError: its name does not end in .bin, or it holds something else than a set.
    """
    if file.suffix != ".bin":
        raise ValueError(f"{file}: expected a file NAME.bin")
    if not file.is_file():
        raise FileNotFoundError(f"no such file: {file}")
    data = load_bin(file.parent, file.stem, stop)
    assert data is not None  # `stop` raises
    return write_validation_set(out, file.stem, data.images, data.same, data.rows)
