"""Fixtures that several test files share: images, a tiny training set, repeatable randomness."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import hypothesis
import numpy as np
import pytest
import torch

hypothesis.settings.register_profile("repeatable", derandomize=True, deadline=None, max_examples=30, database=None)
hypothesis.settings.load_profile("repeatable")
# Networks this small gain little from a second thread, and lose a hundredfold where they must share the cores.
torch.set_num_threads(1)
cv2.setNumThreads(1)  # before any worker is forked: OpenCV's threads cannot be ended after a fork

SIZE_PX = 112
TINY_IDENTITIES, TINY_IMAGES = 3, 4


@dataclass(frozen=True)
class TinySet:
    """A training set on disk: INDEX_ROOT/name.txt and the JPEGs that it lists."""

    index_root: Path
    data_root: Path
    name: str

    @property
    def index_file(self) -> Path:
        return self.index_root / f"{self.name}.txt"

    def image(self, line: int) -> Path:
        """File of the image in `line` of the index, counted from 0."""
        return self.data_root / self.index_file.read_text().splitlines()[line].rpartition(" ")[0]


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _untimed(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every training run times its networks at its start, which takes seconds; only tests marked `timed` want that."""
    if "timed" not in request.keywords:
        monkeypatch.setattr("torchkit.util.cost.latency_ms", lambda work: 1.0)
        monkeypatch.setattr("torchkit.util.cost.onnx_latency_ms", lambda network, *inputs: 1.0)


@pytest.fixture(scope="session")
def make_image() -> Callable[[int], np.ndarray]:
    """Seed -> a colour face-like (112, 112, 3) uint8 RGB image: gradients, an oval, eyes, edges, some noise."""
    return draw_face


@pytest.fixture(scope="session")
def image() -> np.ndarray:
    """One such image; it cannot be written to."""
    image = draw_face(0)
    image.flags.writeable = False
    return image


@pytest.fixture
def tiny_set(tmp_path: Path) -> TinySet:
    """3 identities with 4 images each, in index order."""
    made = TinySet(tmp_path / "index", tmp_path / "images", "tiny")
    made.index_root.mkdir()
    lines = []
    for identity in range(TINY_IDENTITIES):
        (made.data_root / f"id {identity}").mkdir(parents=True)
        for number in range(TINY_IMAGES):
            name = f"id {identity}/{number}.jpg"
            write_jpeg(made.data_root / name, draw_face(identity * TINY_IMAGES + number))
            lines.append(f"{name} {identity}\n")
    made.index_file.write_text("".join(lines))
    return made


def draw_face(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:SIZE_PX, 0:SIZE_PX].astype(np.float64)
    image = np.stack([x * 1.6, y * 1.6, 220 - (x + y) * 0.8], axis=-1)  # background: a gradient in each colour
    centre_y, centre_x = rng.uniform(50, 62, 2)
    face = ((y - centre_y) / 46) ** 2 + ((x - centre_x) / 36) ** 2 < 1
    image[face] = rng.uniform(90, 230, 3) - 0.5 * (y[face] - centre_y)[:, None]
    for side in (-15, 15):
        image[(y - centre_y + 8) ** 2 + (x - centre_x - side) ** 2 < 25] = rng.uniform(0, 60, 3)
    image[(abs(y - centre_y - 22) < 3) & (abs(x - centre_x) < 14)] = rng.uniform(100, 255, 3)
    return np.clip(image + rng.normal(0, 6, image.shape), 0, 255).astype(np.uint8)


def write_jpeg(path: Path, image: np.ndarray) -> None:
    """Write an RGB image."""
    assert cv2.imwrite(str(path), image[..., ::-1])
