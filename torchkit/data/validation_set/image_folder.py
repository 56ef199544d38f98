"""Read a folder of images: `NAME/pairs.txt` and the aligned images that it lists.

The list is in LFW's own format (`NAME/person/person_0001.jpg`), or of `path path same` lines with paths relative to
NAME/ (so come pairs of CelebA's test people); see `torchkit.data.pairs`. The images are JPEG or PNG files of
112x112 pixels, decoded to RGB.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from torchkit.data.images import read_face
from torchkit.data.pairs import read_pairs
from torchkit.data.problems import Report, stop
from torchkit.data.validation_set.base import DistinctImages, ValidationSet

PAIRS_NAME = "pairs.txt"


def load_image_folder(root: Path, name: str, report: Report = stop) -> ValidationSet | None:
    """Read NAME/pairs.txt and its images; None if a problem was reported.

    Raises:
        FileNotFoundError, ValueError: the list as a whole cannot be used.
    """
    folder = root / name
    failed = False

    def note(error: Exception) -> None:
        nonlocal failed
        failed = True
        report(error)

    pairs = read_pairs(folder / PAIRS_NAME, folder, note)
    distinct = DistinctImages(2 * len(pairs), folder)
    done: dict[str, int] = {}  # row of an image that was read
    for k, pair in enumerate(pairs):
        for row, path in ((2 * k, pair.first), (2 * k + 1, pair.second)):
            try:
                if path not in done:
                    image = read_face(folder / path, f"{pair.where}: {folder / path}")
                    distinct.set(row, image.transpose(2, 0, 1))
                    done[path] = row
                distinct.rows[row] = distinct.rows[done[path]]
            except (ValueError, FileNotFoundError) as error:
                note(error)
    return None if failed else distinct.make_set(name, np.array([pair.same for pair in pairs]))
