"""What the parts work on: random images, random weights, and both sides' systems around the same server."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch
from torch import nn

from benchmarks import baseline
from benchmarks.harness import Sizes, note
from torchkit.backbone import Backbone, get_model
from torchkit.client.shuffle import draw_key
from torchkit.data.validation_set import ValidationSet
from torchkit.server import Recogniser, load_recogniser
from torchkit.util.pixels import INPUT_SIZE_PX

SEED = 1234
KEY_SEED = 7
CLIENT = "mobilefacenet"
CALIBRATION_IMAGES = 16
DISTINCT_SHARE = 7701 / 12000
"""Distinct images among the rows of LFW's pairs."""


def draw_images(count: int, seed: int) -> np.ndarray:
    """(count, 3, 112, 112) uint8 RGB: coarse colour patches under noise."""
    rng = np.random.default_rng(seed)
    size = (INPUT_SIZE_PX, INPUT_SIZE_PX)
    patches = [cv2.resize(rng.uniform(0, 255, (7, 7, 3)), size, interpolation=cv2.INTER_CUBIC) for _ in range(count)]
    images = np.stack(patches) + rng.normal(0, 12, (count, *size, 3))
    return np.ascontiguousarray(np.clip(images, 0, 255).astype(np.uint8).transpose(0, 3, 1, 2))


def draw_validation_set(row_count: int) -> ValidationSet:
    """A set of random images that repeats as many of them as LFW does."""
    distinct = max(1, round(row_count * DISTINCT_SHARE))
    rng = np.random.default_rng(SEED)
    rows = np.concatenate([np.arange(distinct), rng.integers(0, distinct, row_count - distinct)])
    return ValidationSet("noise", draw_images(distinct, SEED + 2), rows, rng.random(row_count // 2) < 0.5)


def prepare(folder: Path, sizes: Sizes) -> None:
    """Write the server's weights, and a training set that is a single batch."""
    note(f"preparing random weights of {sizes.server} and {sizes.batch_size} training images")
    torch.manual_seed(SEED)
    torch.save(calibrated(get_model(sizes.server)).state_dict(), folder / "server.pth")
    (folder / "images").mkdir()
    lines = []
    for number, image in enumerate(draw_images(sizes.batch_size, SEED)):
        written = cv2.imwrite(str(folder / "images" / f"{number}.jpg"), image.transpose(1, 2, 0)[..., ::-1])
        assert written
        lines.append(f"{number}.jpg {number}\n")
    (folder / "noise.txt").write_text("".join(lines))


@torch.no_grad()
def calibrated(network: Backbone) -> Backbone:
    """The network with the batch-norm statistics of random images.

    With those of a fresh network, maps fade from layer to layer, and no comparison would see an error.
    """
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = None  # the plain mean
    network.train()(baseline.to_float(draw_images(CALIBRATION_IMAGES, SEED + 1)))
    return network.eval()


def load_server(folder: Path, sizes: Sizes) -> Recogniser:
    """In RGB, for published clients were trained so."""
    return load_recogniser(sizes.server, folder / "server.pth", "rgb")


def published_system(folder: Path, sizes: Sizes) -> baseline.PublishedSystem:
    """The baseline's system around the same server, its client with fresh weights."""
    network = get_model(sizes.server)
    network.load_state_dict(torch.load(folder / "server.pth", weights_only=True))
    key = draw_key(network.tap_shapes()[0], baseline.BLOCK_PX, KEY_SEED, "baseline")
    return baseline.PublishedSystem(network, get_model(CLIENT), key)
