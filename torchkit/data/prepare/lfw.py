"""Write a validation set from LFW's original images, its pairs and five landmarks for each image.

    python -m torchkit.data.prepare lfw --root lfw --pairs lfw/pairs.txt --landmarks lfw_landmark.txt

ROOT holds name/name_0001.jpg, 250x250 (any size will do). The landmarks are lines `name/name_0001.jpg x1 y1 ... x5 y5`
in pixels of these images: left eye, right eye, nose, left and right corner of the mouth, left being the image's
left. Every image is aligned to the ArcFace template at 112x112 by the similarity transform that fits its points
best. Writes OUT/NAME/ and OUT/NAME_list.npy, last and as a whole.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

import numpy as np

from torchkit.data.align import align_face
from torchkit.data.images import read_image
from torchkit.data.pairs import read_pairs
from torchkit.data.prepare.landmarks import read_landmarks
from torchkit.data.prepare.pairs import add_set_arguments, images_of, write_pairs
from torchkit.data.prepare.parallel import add_jobs_argument, parallel_map
from torchkit.data.validation_set.base import check_name
from torchkit.util.cli import CommandParser

HELP = "LFW's images, pairs and landmarks -> validation set"


def add_arguments(parser: CommandParser) -> None:
    parser.option("root", type=Path, required=True, metavar="DIR", help="folder with name/name_0001.jpg")
    parser.option("pairs", type=Path, required=True, metavar="FILE", help="LFW's pairs.txt")
    parser.option("landmarks", type=Path, required=True, metavar="FILE", help="five points an image")
    add_set_arguments(parser)
    parser.option("name", default="lfw", help="name of the set")
    add_jobs_argument(parser)


def run(arguments: argparse.Namespace) -> None:
    folder = prepare_lfw(
        arguments.root, arguments.pairs, arguments.landmarks, arguments.out, arguments.name, arguments.jobs
    )
    print(f"validation set: {folder}")


def prepare_lfw(root: Path, pairs: Path, landmarks: Path, out: Path, name: str = "lfw", jobs: int = 1) -> Path:
    """Align the images that `pairs` names and write them as a validation set.

    Args:
        root: folder of the images.
        pairs: list in LFW's format, or of `path path same` lines.
        landmarks: five points of each image, by its path.
        out: folder that receives NAME/ and NAME_list.npy.
        name: the set's name.
        jobs: number of processes.

    Returns:
        The set's folder.

    Raises:
        FileNotFoundError, ValueError: a file or image is missing, or a line is of another form.
    """
    check_name(name)
    lfw_pairs = read_pairs(pairs, root)
    table = read_landmarks(landmarks)
    work = [(path, f"{where}: {root / path}", table[path]) for path, where in images_of(lfw_pairs).items()]
    return write_pairs(lfw_pairs, parallel_map(partial(_align, root), work, jobs, name), out, name)


def _align(root: Path, work: tuple[str, str, np.ndarray]) -> np.ndarray:
    path, where, points = work
    image = read_image(root / path, where)
    try:
        return align_face(image, points)
    except ValueError as error:
        raise ValueError(f"{where}: {error}; see its landmarks") from error
