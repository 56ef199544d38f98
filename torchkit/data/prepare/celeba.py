"""Convert CelebA as published to aligned 112x112 images, indices and pairs, as train.yaml expects them.

    python -m torchkit.data.prepare celeba --root Data/CelebA
    python -m torchkit.data.prepare celeba --root Data/CelebA --in-the-wild

ROOT holds the unpacked files of the project page, in its folders or side by side:

    Img/img_align_celeba/000001.jpg ...     178x218, with Anno/list_landmarks_align_celeba.txt; or, --in-the-wild,
    Img/img_celeba/000001.jpg ...           the originals,   with Anno/list_landmarks_celeba.txt (sharper faces)
    Anno/identity_CelebA.txt                who it is
    Eval/list_eval_partition.txt            0 training, 1 validation, 2 test

Kaggle's copy works too: img_align_celeba/img_align_celeba/, list_landmarks_align_celeba.csv and
list_eval_partition.csv. It lacks identity_CelebA.txt, which the project page has (in Anno/).

Every image of list_eval_partition.txt is aligned to the ArcFace template by the similarity transform that fits its five
points best. Writes OUT/000001.jpg ... (JPEG, quality 95), then INDEX_ROOT/celebA_train.txt, celebA_valid.txt and
celebA_test.txt, each with labels 0, 1, 2, ... of its own, and celebA_test_pairs.txt, `path path same` lines of test
people in ten folds, for the command `pairs`.

A stopped run continues where it stopped: complete images are kept.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from torchkit.data.align import TEMPLATE_PX, align_face
from torchkit.data.images import encode_jpeg, read_face, read_image
from torchkit.data.index import write_index
from torchkit.data.pairs import draw_pairs
from torchkit.data.prepare.landmarks import CSV_ENDING, Table, read_landmarks, read_numbers
from torchkit.data.prepare.parallel import add_jobs_argument, parallel_map
from torchkit.util.cli import CommandParser, integer_from
from torchkit.util.files import atomic_write_text

HELP = "CelebA's images and lists -> aligned images, indices, test pairs"
PARTITIONS = ("train", "valid", "test")
ALIGNED_SHAPE = (218, 178)
STAMP_NAME = "source.json"
PARTIAL_NAME = ".partial"
DEFAULT_PAIRS = 6000


class Form(NamedTuple):
    """One of the two forms in which CelebA is published."""

    folders: tuple[str, ...]
    landmarks: str
    shape: tuple[int, int] | None
    """(H, W) in pixels; None: any."""


ALIGNED = Form(
    ("Img/img_align_celeba", "img_align_celeba", "Img/img_align_celeba_png"),
    "list_landmarks_align_celeba.txt",
    ALIGNED_SHAPE,
)
IN_THE_WILD = Form(("Img/img_celeba", "img_celeba"), "list_landmarks_celeba.txt", None)


class Image(NamedTuple):
    """A line of list_eval_partition.txt with the entries of the other lists."""

    name: str
    source: str
    where: str
    points: np.ndarray
    identity: int
    partition: int


def add_arguments(parser: CommandParser) -> None:
    parser.option("root", type=Path, required=True, metavar="DIR", help="CelebA's folder")
    parser.switch("in-the-wild", help="start from the original images")
    parser.option("out", type=Path, metavar="DIR", help="receives the images (ROOT/align_crop_112)")
    parser.option("index-root", type=Path, metavar="DIR", help="receives the lists (ROOT/Anno)")
    parser.option("pairs", type=integer_from(0), default=DEFAULT_PAIRS, metavar="M", help="test pairs; 0: none")
    parser.option("seed", help="seed of the test pairs")
    add_jobs_argument(parser)


def run(arguments: argparse.Namespace) -> None:
    prepare_celeba(
        arguments.root,
        arguments.out or arguments.root / "align_crop_112",
        arguments.index_root or arguments.root / "Anno",
        IN_THE_WILD if arguments.in_the_wild else ALIGNED,
        pairs=arguments.pairs,
        seed=arguments.seed,
        jobs=arguments.jobs,
    )


def prepare_celeba(
    root: Path,
    out: Path,
    index_root: Path,
    form: Form = ALIGNED,
    pairs: int = DEFAULT_PAIRS,
    seed: int = 0,
    jobs: int = 1,
) -> None:
    """Align every image of the partition list and write the indices; see this module's docstring.

    The lists are read and compared first, and the indices written last: an index means that its images are there.

    Args:
        root: CelebA's folder.
        out: receives the images.
        index_root: receives the indices and the test pairs.
        form: which images to start from.
        pairs: test pairs, a multiple of 20; 0 for none.
        seed: of the test pairs.
        jobs: processes that align.

    Raises:
        FileNotFoundError: a list or image is missing.
        ValueError: lists that do not fit together, a damaged image, or an `out` with images of another source.
    """
    landmarks_file = _find(root, form.landmarks, "list of landmarks")
    images = _read_lists(root, form, read_landmarks(landmarks_file))
    lists = {name: _labelled([p for p in images if p.partition == k]) for k, name in enumerate(PARTITIONS)}
    test_names, test_labels = lists["test"]
    drawn = draw_pairs(np.array(test_labels), pairs, seed) if pairs else []
    _claim(out, form, landmarks_file)
    written = _align_all(out, form, images, jobs)
    print(f"images: {out} ({written} written, {len(images) - written} were there)")
    for name, (names, labels) in lists.items():
        if names:
            write_index(index_root / f"celebA_{name}.txt", names, labels)
            print(f"index: {index_root}/celebA_{name}.txt ({len(names)} images of {max(labels) + 1} people)")
    if drawn:
        file = index_root / "celebA_test_pairs.txt"
        atomic_write_text(file, "".join(f"{test_names[i]} {test_names[j]} {same:d}\n" for i, j, same in drawn))
        print(f"test pairs: {file}; to make a validation set of them:")
        print(f"  python -m torchkit.data.prepare pairs --root {out} --pairs {file} --name celebA")


def _find(root: Path, name: str, what: str) -> Path:
    """Find a list as the project page or Kaggle names it, in this order."""
    as_csv = Path(name).with_suffix(CSV_ENDING).name
    for place in [root / folder / file for file in (name, as_csv) for folder in ("Anno", "Eval", "")]:
        if place.is_file():
            return place
    raise FileNotFoundError(
        f"{what} not found: {name} or {as_csv} in {root}/Anno, {root}/Eval or {root}; see Data/README.md"
    )


def _image_folder(root: Path, form: Form) -> Path:
    for name in form.folders:
        folder = root / name
        if folder.is_dir():
            twice = folder / folder.name  # Kaggle's archive
            return twice if twice.is_dir() else folder
    places = " or ".join(str(root / name) for name in form.folders)
    raise FileNotFoundError(f"no images: looked for {places}; unpack them there, see Data/README.md")


def _read_lists(root: Path, form: Form, landmarks: Table) -> list[Image]:
    folder = _image_folder(root, form)
    partition_file = _find(root, "list_eval_partition.txt", "partition")
    identity_file = _find(root, "identity_CelebA.txt", "list of identities")
    partitions = read_numbers(partition_file, "partition")
    identities = read_numbers(identity_file, "list of identities")
    file_names = {file.name for file in folder.iterdir()}
    images = []
    for name, row in partitions.values.items():
        where, partition = partitions.where(name), int(row[0])
        if partition >= len(PARTITIONS):
            raise ValueError(f"{where}: partition {partition}, expected 0, 1 or 2")
        if name not in identities.values:
            raise ValueError(f"{where} has no line in {identity_file}; get the lists complete")
        identity = int(identities[name][0])
        images.append(
            Image(name, _source(folder, name, file_names, where), where, landmarks[name], identity, partition)
        )
    return images


def _source(folder: Path, name: str, file_names: set[str], where: str) -> str:
    """Find the image's file; the PNG edition has other extensions than the lists."""
    for candidate in (name, f"{name.rpartition('.')[0]}.png"):
        if candidate in file_names:
            return str(folder / candidate)
    raise FileNotFoundError(f"{where} is not in {folder}; unpack the archive again, or take out the line")


def _labelled(images: Sequence[Image]) -> tuple[list[str], list[int]]:
    """Return names, and labels 0, 1, 2, ... in the order of the identities' numbers."""
    label = {identity: k for k, identity in enumerate(sorted({image.identity for image in images}))}
    return [image.name for image in images], [label[image.identity] for image in images]


def _claim(out: Path, form: Form, landmarks: Path) -> None:
    """Record in `out` the source of its images, or check that the record says the same."""
    stamp = json.dumps(
        {
            "images": form.folders[0],
            "landmarks_sha256": hashlib.sha256(landmarks.read_bytes()).hexdigest(),
            "template_px": TEMPLATE_PX.tolist(),
        },
        indent=1,
    )
    file = out / STAMP_NAME
    if file.is_file():
        if file.read_text() != stamp:
            raise ValueError(f"{out} holds images of another source, says {file}; name another --out or remove it")
    elif out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} holds files that this command did not write; name another --out or remove it")
    else:
        atomic_write_text(file, stamp)


def _align_all(out: Path, form: Form, images: list[Image], jobs: int) -> int:
    """Write all missing images; return their number."""
    partial_folder = out / PARTIAL_NAME
    shutil.rmtree(partial_folder, ignore_errors=True)  # of a run that was killed
    partial_folder.mkdir()
    try:
        return sum(parallel_map(partial(_align_one, out, form.shape), images, jobs, "aligning"))
    finally:
        shutil.rmtree(partial_folder, ignore_errors=True)


def _align_one(out: Path, shape: tuple[int, int] | None, work: Image) -> bool:
    """Write one image; return False if it exists and is complete."""
    target = out / work.name
    try:
        read_face(target, "")
    except (ValueError, FileNotFoundError):
        pass
    else:
        return False
    image = read_image(Path(work.source), f"{work.where}: {work.source}")
    if shape and image.shape[:2] != shape:
        height, width = image.shape[:2]
        raise ValueError(
            f"{work.where}: {work.source} is {width}x{height}, expected {shape[1]}x{shape[0]}; "
            "--in-the-wild takes images of other sizes"
        )
    try:
        face = align_face(image, work.points)
    except ValueError as error:
        raise ValueError(f"{work.where}: {error}; correct its landmarks or take out the line") from error
    # Not synced, since that takes an hour for 200,000 images: one that a power cut emptied is detected and rewritten.
    temporary = out / PARTIAL_NAME / work.name
    temporary.write_bytes(encode_jpeg(face))
    temporary.replace(target)
    return True
