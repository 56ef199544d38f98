"""Train and measure ways to recognise faces, and draw their frontier: accuracy, leakage, bytes, client work.

    python validation/frontier_main.py --faces Data/faces --sets runs/frontier/sets \\
        --server-checkpoint model/mobilefacenet_512_bgr.pth
    python validation/frontier_main.py ... --recipes "light client" "split computing"

Each recipe is trained, its accuracy measured on the set "faces" under the hybrid obfuscation, beside what its client
could do alone, and, with --judge-checkpoint, attacked. A stopped command continues where it stopped.

Prints a table and writes OUT/frontier.json, OUT/frontier.md and OUT/frontier.png, and a folder for each recipe.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from torchkit.util.cli import CommandParser, run_command
from torchkit.util.files import atomic_write_text
from torchkit.util.provenance import provenance
from validation.measure.frontier import RECIPES, ROOT, Frontier, read_results
from validation.report.frontier import FrontierRow, draw_frontier, frontier_table, rows_of


def parse_arguments() -> argparse.Namespace:
    parser = CommandParser(__doc__)
    parser.option("faces", type=Path, required=True, metavar="DIR", help="aligned faces with train.txt")
    parser.option("sets", type=Path, required=True, metavar="DIR", help='folder with the validation set "faces"')
    parser.option("server-checkpoint", type=Path, required=True, metavar="FILE", help="weights of the recogniser")
    parser.option(
        "judge-checkpoint",
        type=Path,
        metavar="FILE",
        help="dlib's weights, which judge reconstructions; without them nothing is attacked",
    )
    parser.option("recipes", nargs="+", choices=list(RECIPES), default=list(RECIPES), help="what to measure")
    parser.option("out", type=Path, default=ROOT / "runs" / "frontier", metavar="DIR", help="results")
    parser.add_traceback()
    return parser.parse_args()


def frontier_of(arguments: argparse.Namespace) -> Frontier:
    """With whole paths, for the commands run elsewhere.

    Raises:
        FileNotFoundError: there is no such file or folder.
    """
    for option in ("faces", "sets", "server_checkpoint", "judge_checkpoint"):
        path = getattr(arguments, option)
        if path is not None and not path.exists():
            raise FileNotFoundError(f"--{option.replace('_', '-')} {path}: there is no such file or folder")
    judge = arguments.judge_checkpoint
    return Frontier(
        arguments.faces.resolve(),
        arguments.sets.resolve(),
        arguments.server_checkpoint.resolve(),
        judge.resolve() if judge else None,
        arguments.out.resolve(),
    )


def main(arguments: argparse.Namespace) -> None:
    frontier = frontier_of(arguments)
    rows: list[FrontierRow] = []
    clear = 0.0
    for name in arguments.recipes:
        recipe = RECIPES[name]
        frontier.run(recipe)
        results = read_results(frontier.accuracy_file(recipe))
        clear = next(row["accuracy"] for row in results["rows"] if row["condition"] == "clear")
        attack = frontier.leakage_file(recipe)
        rows += rows_of(name, results, read_results(attack) if attack.is_file() else None)
        write_frontier(arguments.out, rows, clear)  # after each recipe: the run takes hours
    print(frontier_table(rows, clear).text())
    print(f"wrote {arguments.out / 'frontier.json'}, {arguments.out / 'frontier.png'}")


def write_frontier(out: Path, rows: list[FrontierRow], clear: float) -> None:
    """JSON, Markdown and the chart."""
    report = {"rows": [asdict(row) for row in rows], "clear": clear, "provenance": provenance()}
    atomic_write_text(out / "frontier.json", json.dumps(report, indent=2, allow_nan=False) + "\n")
    atomic_write_text(out / "frontier.md", frontier_table(rows, clear).markdown())
    draw_frontier(rows, clear, out / "frontier.png")


if __name__ == "__main__":
    parsed = parse_arguments()
    run_command(lambda: main(parsed), parsed.traceback)
