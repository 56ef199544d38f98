"""Training sets without an index: a folder for each person."""

from __future__ import annotations

import os
from array import array
from pathlib import Path

import numpy as np

from torchkit.data.images import EXTENSIONS
from torchkit.data.index.base import ImageIndex
from torchkit.data.index.packed import StringPacker


def read_identity_folders(root: Path) -> ImageIndex:
    """Read the images in the folders under `root`, sorted by name; label k is the k-th folder.

    Hidden files and folders, and files that are not images, are ignored.

    Raises:
        ValueError: a person's folder without an image.
    """
    packer, labels = StringPacker(), array("q")
    for label, person in enumerate(find_people(root)):
        images = sorted(_images(root / person))
        if not images:
            raise ValueError(
                f"{root / person} holds no image ({', '.join(EXTENSIONS)}), but would be a person: remove the "
                "folder, or list the images in an index, see Data/README.md"
            )
        for image in images:
            packer.append(f"{person}/{image}")
            labels.append(label)
    return ImageIndex(root, packer.pack(), np.frombuffer(labels, np.int64))


def find_people(root: Path) -> list[str]:
    """List the names of the folders under `root`, sorted; none if `root` is not a folder."""
    if not root.is_dir():
        return []
    with os.scandir(root) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))


def _images(folder: Path) -> list[str]:
    """List the images below `folder`, at any depth, relative to it."""
    paths = []
    for top, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        inside = Path(top).relative_to(folder)
        names = [name for name in files if name.lower().endswith(EXTENSIONS) and not name.startswith(".")]
        paths += [(inside / name).as_posix() for name in names]
    return paths
