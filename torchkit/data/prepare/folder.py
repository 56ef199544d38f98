"""Write an index of a folder of identities, and a validation set of people who are held out.

    python -m torchkit.data.prepare folder --root Data/mine --name mine
    python -m torchkit.data.prepare folder --root Data/mine --name mine --holdout 40 --pairs 3000

ROOT holds a folder for each person with that person's aligned 112x112 images (JPEG, PNG, BMP, WebP). People are
numbered in the order of their folders' names. With --holdout N, N people drawn by --seed stay out of the index; M pairs
of their images (--pairs M) become a validation set: ten folds with as many pairs of one person as of two, no pair
twice, and with 20 people or more each person in one fold only. Every image is read first; a damaged one, or one of
another size, ends the command before anything is written.

Writes INDEX_ROOT/NAME.txt (train with DATA_ROOT=ROOT INDEX_ROOT=INDEX_ROOT DATASETS.0.name=NAME) and, of the people
held out, INDEX_ROOT/NAME_pairs.txt, OUT/NAME/ and OUT/NAME_list.npy.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

import numpy as np

from torchkit.data.images import EXTENSIONS, read_face
from torchkit.data.index import write_index
from torchkit.data.pairs import Pair, draw_pairs
from torchkit.data.prepare.pairs import add_set_arguments, images_of, write_pairs
from torchkit.data.prepare.parallel import add_jobs_argument, parallel_map
from torchkit.data.validation_set.base import check_name
from torchkit.util.cli import CommandParser, integer_from
from torchkit.util.files import atomic_write_text
from torchkit.util.seeding import stream

HELP = "folder of identities -> index, held-out people -> validation set"
DEFAULT_PAIRS = 6000


def add_arguments(parser: CommandParser) -> None:
    parser.option("root", type=Path, required=True, metavar="DIR", help="folder with a folder for each person")
    parser.option("name", required=True, help="name of the index, and of the validation set")
    parser.option("index-root", type=Path, metavar="DIR", help="receives NAME.txt (the folder above ROOT)")
    parser.option("holdout", type=integer_from(0), default=0, metavar="N", help="people kept out of the index")
    parser.option("pairs", type=int, metavar="M", help=f"pairs of their images ({DEFAULT_PAIRS})")
    parser.option("seed", help="seed of who is held out and which pairs are drawn")
    add_set_arguments(parser)
    add_jobs_argument(parser)


def run(arguments: argparse.Namespace) -> None:
    if arguments.pairs is not None and not arguments.holdout:
        raise ValueError(f"--pairs {arguments.pairs} needs --holdout N: pairs are drawn from people who are held out")
    index_root = arguments.root.absolute().parent if arguments.index_root is None else arguments.index_root
    pairs = DEFAULT_PAIRS if arguments.pairs is None else arguments.pairs
    prepare_folder(
        arguments.root, arguments.name, index_root, arguments.out,
        holdout=arguments.holdout, pairs=pairs, seed=arguments.seed, jobs=arguments.jobs,
    )  # fmt: skip


def prepare_folder(
    root: Path,
    name: str,
    index_root: Path,
    out: Path,
    holdout: int = 0,
    pairs: int = DEFAULT_PAIRS,
    seed: int = 0,
    jobs: int = 1,
) -> None:
    """Write an index of the identity folders under `root`, and a validation set of those held out.

    Args:
        root: folder with a folder for each person.
        name: of the index and of the validation set.
        index_root: receives NAME.txt and, with `holdout`, NAME_pairs.txt.
        out: receives the validation set.
        holdout: number of people to hold out; 0: no validation set.
        pairs: number of pairs of their images, a multiple of 20.
        seed: of the choice of people and pairs.
        jobs: processes that check the images.

    Raises:
        FileNotFoundError, ValueError: no such folder, too few people or pairs, or an image that is no aligned face.
    """
    check_name(name)
    people = _people(root)
    held_out = _hold_out(len(people), holdout, root, seed)
    names = list(people)
    paths = [path for k in held_out for path in people[names[k]]]
    labels = np.array([k for k in held_out for _ in people[names[k]]])
    drawn = draw_pairs(labels, pairs, seed) if holdout else []
    for _ in parallel_map(partial(_check, root), [path for p in people.values() for path in p], jobs, "reading"):
        pass
    if holdout:
        list_file = index_root / f"{name}_pairs.txt"
        held_out_pairs = [Pair(paths[i], paths[j], same, str(list_file)) for i, j, same in drawn]
        images = parallel_map(partial(_read, root), list(images_of(held_out_pairs)), jobs, "held out")
        print(f"validation set: {write_pairs(held_out_pairs, images, out, name)} ({pairs} pairs of {holdout} people)")
        atomic_write_text(
            list_file, "".join(f"{pair.first}\t{pair.second}\t{pair.same:d}\n" for pair in held_out_pairs)
        )
    kept = [people[person] for k, person in enumerate(names) if k not in set(held_out)]
    file = index_root / f"{name}.txt"
    write_index(file, [path for p in kept for path in p], [label for label, p in enumerate(kept) for _ in p])
    print(f"index: {file} ({sum(map(len, kept))} images of {len(kept)} people)")


def _people(root: Path) -> dict[str, list[str]]:
    """List the images of each person, relative to `root`; both sorted by name."""
    if not root.is_dir():
        raise FileNotFoundError(f"--root {root} is no folder; it must hold a folder for each person")
    people, ignored = {}, 0
    for person in sorted(root.iterdir()):
        files = sorted(person.iterdir()) if person.is_dir() else []
        images = [file.name for file in files if file.suffix.lower() in EXTENSIONS and file.name[0] != "."]
        if images and person.name[0] != ".":
            people[person.name] = [f"{person.name}/{image}" for image in images]
            ignored += len(files) - len(images)
        else:
            ignored += 1
    if not people:
        raise ValueError(f"{root} holds no person's folder with images ({', '.join(EXTENSIONS)})")
    if ignored:
        print(f"ignored: {ignored} files and folders under {root} that are no images in a person's folder")
    return people


def _hold_out(people: int, holdout: int, root: Path, seed: int) -> list[int]:
    if not (holdout == 0 or 2 <= holdout < people):
        raise ValueError(f"--holdout {holdout}: expected 0, or 2 to {people - 1} of the {people} people in {root}")
    return sorted(int(k) for k in stream(seed, "held out").permutation(people)[:holdout])


def _check(root: Path, path: str) -> None:
    _read(root, path)


def _read(root: Path, path: str) -> np.ndarray:
    return read_face(root / path, str(root / path))
