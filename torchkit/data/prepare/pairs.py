"""Write a validation set from aligned images and a list of pairs.

    python -m torchkit.data.prepare pairs --root Data/faces --pairs Data/faces/val_pairs.txt --name faces

The list has a line `path path same` for each pair (same: 1 or 0, paths relative to ROOT), or LFW's own format: first
the counts (`10 300`, or `1100` without folds), then `name n1 n2` or `name1 n1 name2 n2` a line, for images
name/name_0001.jpg. Columns are separated by tabs or, in a line without tabs, by spaces. The order of the lines is kept:
the evaluation takes contiguous tenths as folds. Writes OUT/NAME/ and OUT/NAME_list.npy, last and as a whole.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from torchkit.data.images import read_face
from torchkit.data.pairs import Pair, read_pairs
from torchkit.data.prepare.parallel import add_jobs_argument, parallel_map
from torchkit.data.validation_set import write_validation_set
from torchkit.data.validation_set.base import IMAGE_SHAPE, check_name
from torchkit.util.cli import CommandParser

HELP = "aligned images + a list of pairs -> validation set"


def add_arguments(parser: CommandParser) -> None:
    parser.option("root", type=Path, required=True, metavar="DIR", help="folder of the aligned images")
    parser.option("pairs", type=Path, required=True, metavar="FILE", help="the list")
    add_set_arguments(parser)
    parser.option("name", required=True, help="name of the set")
    add_jobs_argument(parser)


def add_set_arguments(parser: CommandParser) -> None:
    parser.option("out", default=Path("Data/validation"), help="receives NAME/ and NAME_list.npy")


def run(arguments: argparse.Namespace) -> None:
    folder = prepare_pairs(arguments.root, arguments.pairs, arguments.out, arguments.name, arguments.jobs)
    print(f"validation set: {folder}")


def prepare_pairs(root: Path, pairs: Path, out: Path, name: str, jobs: int = 1) -> Path:
    """Build a validation set from a list of pairs, in the order of its lines.

    Args:
        root: folder of the images, aligned, 112x112.
        pairs: the list, see `torchkit.data.pairs`.
        out: folder that receives NAME/ and NAME_list.npy.
        name: the set's name.
        jobs: number of processes.

    Returns:
        The set's folder.

    Raises:
        FileNotFoundError, ValueError: a missing list or image, a line of another form, no pair at all.
    """
    check_name(name)
    listed_pairs = read_pairs(pairs, root)
    images = parallel_map(partial(_read, root), list(images_of(listed_pairs).items()), jobs, name)
    return write_pairs(listed_pairs, images, out, name)


def _read(root: Path, image: tuple[str, str]) -> np.ndarray:
    path, where = image
    return read_face(root / path, f"{where}: {root / path}")


def images_of(pairs: Sequence[Pair]) -> dict[str, str]:
    """Map the distinct images, in order of first appearance, to the place where the list first names them."""
    first_mentions: dict[str, str] = {}
    for pair in pairs:
        first_mentions.setdefault(pair.first, pair.where)
        first_mentions.setdefault(pair.second, pair.where)
    return first_mentions


def write_pairs(pairs: Sequence[Pair], images: Iterable[np.ndarray], out: Path, name: str) -> Path:
    """Write a validation set of `pairs`, whose distinct images `images` gives as (112, 112, 3) uint8 RGB."""
    position = {path: k for k, path in enumerate(images_of(pairs))}
    distinct = np.empty((len(position), *IMAGE_SHAPE), np.uint8)
    for k, image in enumerate(images):
        distinct[k] = image.transpose(2, 0, 1)
    rows = np.array([position[path] for pair in pairs for path in (pair.first, pair.second)])
    return write_validation_set(out, name, distinct, np.array([pair.same for pair in pairs]), rows)
