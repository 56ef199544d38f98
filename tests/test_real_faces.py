"""What needs real faces: skipped unless PROFACE_FACES and PROFACE_SERVER say where some are.

    PROFACE_FACES=faces PROFACE_SERVER=mobilefacenet.pth python -m pytest -m slow -n 0 tests/test_real_faces.py

PROFACE_FACES: a folder with a tar of aligned 112x112 faces, in which val_pairs.txt lists pairs, "path path same" a
line, of folds of one size. tests/test_data_forms.py reads InsightFace's .bin files in it.
PROFACE_SERVER: TFace's MobileFaceNet.
"""

from __future__ import annotations

import os
import tarfile
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from torchkit.client import Client, ClientSettings
from torchkit.data.validation_set import ValidationSet
from torchkit.server import load_recogniser
from torchkit.system import ProFaceC
from validation.measure.conditions import Case
from validation.measure.evaluate import Computation, embed
from validation.protocol.verification import k_fold, pair_distances

PAIRS = 1000

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def faces() -> ValidationSet:
    """The first 100 pairs of each of the ten folds."""
    tars = sorted(Path(os.environ.get("PROFACE_FACES") or "nowhere").glob("*.tar"))
    if not tars:
        pytest.skip("PROFACE_FACES does not say where real faces are")
    with tarfile.open(tars[0]) as archive:
        names = {Path(member.name).as_posix(): member for member in archive.getmembers()}
        root = next(name for name in names if name.endswith("val_pairs.txt")).removesuffix("val_pairs.txt")

        def read(name: str) -> bytes:
            file = archive.extractfile(names[root + name])
            assert file is not None
            return file.read()

        pairs = first_of_each_half_fold([line.split() for line in read("val_pairs.txt").decode().splitlines()])
        files = list(dict.fromkeys(name for pair in pairs for name in pair[:2]))
        data = [read(name) for name in files]
    images = np.stack([cv2.imdecode(np.frombuffer(d, np.uint8), cv2.IMREAD_COLOR)[..., ::-1] for d in data])
    rows = np.array([files.index(name) for pair in pairs for name in pair[:2]])
    same = np.array([pair[2] == "1" for pair in pairs])
    return ValidationSet("faces", np.ascontiguousarray(images.transpose(0, 3, 1, 2)), rows, same)


def first_of_each_half_fold(pairs: list[list[str]]) -> list[list[str]]:
    """PAIRS of the pairs, 10 folds again: half of a fold shows one person, half of it two."""
    half_folds = np.array_split(np.arange(len(pairs)), 20)
    return [pairs[i] for half in half_folds for i in half[: PAIRS // 20]]


@pytest.fixture(scope="module")
def system() -> ProFaceC:
    """A real recogniser and a client that starts from zero: what is compensated equals what is obfuscated."""
    if not os.environ.get("PROFACE_SERVER"):
        pytest.skip("PROFACE_SERVER does not say where a recogniser is")
    recogniser = load_recogniser("mobilefacenet", Path(os.environ["PROFACE_SERVER"]))
    client = Client(ClientSettings(server_shapes=tuple(recogniser.backbone.tap_shapes())), key_seed=1)
    client.start_interfaces("zero")
    return ProFaceC(client, recogniser).eval().to(memory_format=torch.channels_last)


def test_bf16_validation_decides_at_most_one_pair_in_a_thousand_otherwise(
    faces: ValidationSet, system: ProFaceC
) -> None:
    """Clear faces, at float32's thresholds. Obfuscated images alone are near chance: any change moves thresholds."""
    clear, cpu = Case("clear"), torch.device("cpu")
    exact, mixed = (
        embed(system, faces, [clear], 1, Computation(cpu, amp=amp))[clear] for amp in (None, torch.bfloat16)
    )
    protocol = k_fold(pair_distances(exact), faces.same)
    thresholds = np.repeat(protocol.thresholds, PAIRS // 10)
    correct = (pair_distances(mixed) < thresholds) == faces.same
    assert protocol.correct.mean() > 0.9
    assert abs(int(correct.sum()) - int(protocol.correct.sum())) <= PAIRS / 1000
    assert (exact * mixed).sum(axis=1).min() > 0.99
