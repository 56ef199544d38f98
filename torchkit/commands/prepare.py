"""Prepare data for training and evaluation.

    python -m torchkit.data.prepare celeba --root Data/CelebA               train.yaml's images and index
    python -m torchkit.data.prepare folder --root Data/mine --name mine --holdout 12 --pairs 1200
    python -m torchkit.data.prepare lfw --root lfw --pairs lfw/pairs.txt --landmarks lfw_landmark.txt
    python -m torchkit.data.prepare pairs --root Data/faces --pairs Data/faces/val_pairs.txt --name faces
    python -m torchkit.data.prepare bin downloads/agedb_30.bin --out Data/validation
    python -m torchkit.data.prepare verify --set Data/validation/agedb_30
    python -m torchkit.data.prepare demo

The results are 112x112 faces, aligned by five points to the ArcFace template; an index for training, with a line
`relative/path label` for each image; validation sets, a bcolz folder NAME/ and NAME_list.npy. COMMAND --help explains
each. A run that was stopped leaves no incomplete file, and continues where it stopped when it is started again.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from torchkit.data.prepare import bin_files, celeba, demo, folder, lfw, pairs, verify
from torchkit.util.cli import Command, parse_command, run_command

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
    """Parse `given`; None: the command line."""
    return parse_command(__doc__, "python -m torchkit.data.prepare", COMMANDS, given)


if __name__ == "__main__":
    parsed = parse_arguments()
    run_command(lambda: parsed.run(parsed), parsed.traceback)
