"""Prepare data: python -m torchkit.data.prepare COMMAND.

    demo      ORL faces and dlib's recogniser, for `make demo`
    pairs     pictures + a list of pairs -> validation set (NAME/ + NAME_list.npy)

`COMMAND --help` explains each. Nothing is left half-written.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from tqdm import tqdm

from torchkit.data.demo import prepare_demo
from torchkit.data.validation_set import write_validation_set
from torchkit.util.cli import run_command
from torchkit.util.pixels import INPUT_SIZE_PX, read_image


def prepare_pairs(root: Path, pairs: Path, out: Path, name: str) -> Path:
    """Build a validation set from `path path same` lines (same: 1 or 0), in the order of the lines.

    Args:
        root: folder of the pictures, aligned, 112x112.
        pairs: the list.
        out: folder that receives NAME/ and NAME_list.npy.
        name: the set's name.

    Raises:
        FileNotFoundError, ValueError: a missing list or picture, a line of another form, no pair at all.
    """
    if not pairs.is_file():
        raise FileNotFoundError(f"list of pairs not found: {pairs}")
    lines = pairs.read_text().splitlines()
    if not lines:
        raise ValueError(f"{pairs} is empty: expected a line `path path same` for each pair")
    images = np.empty((2 * len(lines), 3, INPUT_SIZE_PX, INPUT_SIZE_PX), np.uint8)
    same = np.empty(len(lines), bool)
    for number, line in enumerate(tqdm(lines, desc=name, unit=" pairs", dynamic_ncols=True)):
        where = f"{pairs}, line {number + 1}"
        match line.split():
            case [first, second, ("0" | "1") as flag]:
                same[number] = flag == "1"
            case _:
                raise ValueError(f"{where}: {line!r}: expected `path path same` with same 1 or 0")
        for row, path in enumerate((first, second), start=2 * number):
            images[row] = read_image(root / path, f"{where}: {root / path}").transpose(2, 0, 1)
    return write_validation_set(out, name, images, same)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m torchkit.data.prepare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--traceback", action="store_true", help="show where in the code an error arose")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    demo = commands.add_parser("demo", parents=[common], help="ORL faces and dlib's recogniser")
    demo.add_argument("--out", type=Path, default=Path("Data/demo"), help="folder for the faces (Data/demo)")
    demo.add_argument("--model-root", type=Path, default=Path("model"), help="folder for the recogniser (model)")
    pairs = commands.add_parser("pairs", parents=[common], help="pictures + a list of pairs -> validation set")
    pairs.add_argument("--root", type=Path, required=True, help="folder of the aligned 112x112 pictures")
    pairs.add_argument("--pairs", type=Path, required=True, help="text file, a line `path path same` (1 or 0) a pair")
    pairs.add_argument("--out", type=Path, required=True, help="folder that receives NAME/ and NAME_list.npy")
    pairs.add_argument("--name", required=True, help="name of the set")
    return parser.parse_args()


def main(arguments: argparse.Namespace) -> None:
    if arguments.command == "demo":
        prepare_demo(arguments.out, arguments.model_root)
    else:
        folder = prepare_pairs(arguments.root, arguments.pairs, arguments.out, arguments.name)
        print(f"validation set: {folder}")


if __name__ == "__main__":
    parsed = parse_arguments()
    run_command(lambda: main(parsed), parsed.traceback)
