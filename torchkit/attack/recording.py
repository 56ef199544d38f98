"""Observations on disk, computed once: a step of an attack then costs its decoder alone.

FOLDER/train/ and FOLDER/held_out/ hold an array a name, NAME.npy: images uint8, all else float16, whose rounding lies
far below the steps of quantised features; `people.npy` tells whose the images are. FOLDER/recording.json says what was
recorded. Arrays are written whole, and those that are there are kept.
"""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.lib.format import open_memmap
from torch import Tensor
from tqdm import tqdm

from torchkit.attack.inputs import AttackInputs
from torchkit.data.index import Index
from torchkit.data.training_set import as_received
from torchkit.obfuscation import evaluation_image
from torchkit.util.files import atomic_write_bytes, atomic_write_text
from torchkit.util.pixels import to_batch
from torchkit.util.seeding import stream

SPLITS = ("train", "held_out")
"""Whom attackers learn from, and whom they are measured on: no person is in both."""
BATCH = 50
PENDING = ".pending"
"""Folder in which arrays grow until they are whole."""
IMAGE_SEED = 0
"""Of the draw of images: all attacks learn from the same."""


@dataclass(frozen=True)
class Recording:
    """What the arrays of a folder are of, and what else attacks must share whose results lie beside them."""

    client: str
    """Fingerprint of the client, in hexadecimal."""
    obfuscation: str
    obfuscation_seed: int
    images: dict[str, int]
    """Split -> how many."""
    source: dict[str, str]
    """Split -> the index that they come from."""
    budget: str
    """Of the attackers."""
    judge: str
    """Of their reconstructions."""


def choose_images(labels: np.ndarray, count: int | None) -> np.ndarray:
    """Positions of up to `count` images, rising, drawn with as even a share of each person as there are images.

    Args:
        labels: (N,) whose they are.
        count: how many; None: all.
    """
    if count is None or count >= len(labels):
        return np.arange(len(labels))
    rng = stream(IMAGE_SEED, "attack images")
    order = rng.permutation(len(labels))
    turn = np.empty(len(labels), np.int64)  # how many of the same person come before an image in the order
    for person in np.unique(labels):
        own = order[labels[order] == person]
        turn[own] = np.arange(len(own))
    return np.sort(order[np.argsort(turn[order], kind="stable")][:count])


class Recorder:
    """Computes arrays of one split and writes them to its folder.

    Args:
        folder: of the split.
        inputs: of the client's observations.
        index: images and people.
        positions: (n,) of the images in the index.
        obfuscation: kind.
        seed: of the hybrid.
        device: to compute on.
    """

    def __init__(
        self, folder: Path, inputs: AttackInputs, index: Index, positions: np.ndarray, obfuscation: str, seed: int,
        device: torch.device,
    ) -> None:  # fmt: skip
        self.folder, self.inputs, self.index, self.positions = folder, inputs, index, positions
        self.obfuscation, self.seed, self.device = obfuscation, seed, device

    def record(self, names: Collection[str]) -> None:
        """Write the arrays called `names` that are not there yet."""
        missing = [name for name in names if not array_path(self.folder, name).is_file()]
        if not missing:
            return
        save_array(array_path(self.folder, "people"), self.index.labels[self.positions])
        pending = self.folder / PENDING
        shutil.rmtree(pending, ignore_errors=True)  # what an interrupted run left
        pending.mkdir()
        arrays: dict[str, np.ndarray] = {}
        with tqdm(total=len(self.positions), desc=f"observing, {self.folder.name}", unit=" images") as bar:
            for start in range(0, len(self.positions), BATCH):
                clear, obfuscated = self._images(self.positions[start : start + BATCH])
                for name, tensor in self.inputs.arrays(clear, obfuscated, missing).items():
                    values = stored(tensor)
                    if name not in arrays:
                        shape = (len(self.positions), *values.shape[1:])
                        arrays[name] = open_memmap(array_path(pending, name), "w+", values.dtype, shape)
                    arrays[name][start : start + len(values)] = values
                bar.update(len(clear))
        for name, array in arrays.items():
            cast(np.memmap, array).flush()
            array_path(pending, name).replace(array_path(self.folder, name))
        pending.rmdir()

    def _images(self, positions: np.ndarray) -> tuple[Tensor, Tensor]:
        """Clear and obfuscated images (B, 3, 112, 112) uint8 RGB."""
        clear = [self.index.read(int(position)) for position in positions]
        quality = self.inputs.system.client.settings.image_quality
        obfuscated = [as_received(evaluation_image(image, self.obfuscation, self.seed), quality) for image in clear]
        return to_batch(clear).to(self.device), to_batch(obfuscated).to(self.device)


class RecordedFaces:
    """The recorded arrays of a split, read from the disk as they are needed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.people = self.array("people")

    def __len__(self) -> int:
        return len(self.people)

    def has(self, name: str) -> bool:
        """Whether an array was recorded."""
        return array_path(self.folder, name).is_file()

    def array(self, name: str) -> np.ndarray:
        """(n, ...), mapped into memory.

        Raises:
            FileNotFoundError: it was not recorded.
        """
        path = array_path(self.folder, name)
        if not path.is_file():
            raise FileNotFoundError(f"{path} not found: record the observation first")
        return np.load(path, mmap_mode="r", allow_pickle=False)

    def batch(self, names: Mapping[str, str], positions: np.ndarray, device: torch.device) -> dict[str, Tensor]:
        """Input name -> (B, ...) float32 of the array that stands for it, images in [0, 1]."""
        return {name: as_input(self.array(array)[positions], device) for name, array in names.items()}


def as_input(array: np.ndarray, device: torch.device) -> Tensor:
    """A stored array as a network takes it: float32, images in [0, 1]."""
    tensor = torch.from_numpy(np.array(array)).to(device)  # a copy: what is mapped from the disk cannot be written
    return tensor.float() / 255 if tensor.dtype == torch.uint8 else tensor.float()


def stored(tensor: Tensor) -> np.ndarray:
    """As it is kept: images uint8, all else float16."""
    return (tensor if tensor.dtype == torch.uint8 else tensor.half()).cpu().numpy()


def array_path(folder: Path, name: str) -> Path:
    return folder / f"{name}.npy"


def save_array(path: Path, array: np.ndarray) -> None:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    atomic_write_bytes(path, buffer.getvalue())


def check_recording(folder: Path, recording: Recording) -> None:
    """Say in the folder what is recorded there, or make sure that it is this.

    Raises:
        ValueError: the folder holds another recording.
    """
    path = folder / "recording.json"
    text = json.dumps(asdict(recording), indent=2) + "\n"
    if path.is_file() and path.read_text(encoding="utf-8") != text:
        raise ValueError(
            f"{path} describes attacks on other faces or another client, or with another budget or judge; give another "
            "--out folder"
        )
    atomic_write_text(path, text)
