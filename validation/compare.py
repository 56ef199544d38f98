"""Compare results of val_main.py.

    python validation/compare.py runs/faces/validation runs/other/validation
    python validation/compare.py runs/a runs/b runs/c --datasets lfw --out runs/compared

Takes the folders that val_main.py wrote (its --out). Prints a line for each condition and run: the rates, the
difference to the first run, the number of pairs that only one of the two decides correctly, and the probability of a
split at least as uneven if both were equally good (McNemar's test on the same pairs). Writes OUT/compare.md,
compare.csv and, for each set, compare_roc_SET.png, the ROCs of all runs in one image.

A small p is evidence of a difference between the runs on these pairs; among many comparisons, some are small by chance.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from torchkit.util.cli import CommandParser, run_command
from torchkit.util.files import atomic_write_text
from validation.protocol.figures import Figure, measured_from, shown_figures
from validation.protocol.mcnemar import mcnemar
from validation.protocol.pairs import PairScores, read_pairs
from validation.protocol.verification import roc
from validation.report.chart import file_name, save_png
from validation.report.plots import Curve, overlay_figure
from validation.report.rows import EXTRAS, cost_table, label, show_extra, with_interval
from validation.report.tables import Table

DEFAULT_OUT = Path(__file__).resolve().parents[1] / "runs" / "comparison"
COMPARED = ("difference", "only first right", "only this right", "p")
NOTE = (
    "difference: accuracy minus that of the first run, in percentage points. only first right, only this right: pairs "
    "that one of the two decides rightly and the other wrongly; p: McNemar's test, two-sided."
)


@dataclass(frozen=True, eq=False)
class Run:
    """A folder of results.

    Attributes:
        name: short, different for each run.
        folder: path of the folder.
        rows: of results.json, by (dataset, label of the condition).
        scores: the pairs, by dataset.
    """

    name: str
    folder: Path
    rows: dict[tuple[str, str], dict[str, Any]]
    scores: dict[str, PairScores]


def parse_arguments() -> argparse.Namespace:
    parser = CommandParser(__doc__)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folders that val_main.py wrote, two or more")
    parser.option("datasets", nargs="+", metavar="NAME", help="validation sets to compare; all unless named")
    parser.option("out", default=DEFAULT_OUT, help="folder for what is written")
    parser.add_traceback()
    return parser.parse_args()


def load_runs(folders: Sequence[Path], datasets: Sequence[str] | None) -> list[Run]:
    """Read the runs and check that they can be compared.

    Raises:
        FileNotFoundError, ValueError: fewer than two folders, a file is missing or damaged, or sets or pairs differ.
    """
    if len(folders) < 2 or len({folder.resolve() for folder in folders}) < len(folders):
        raise ValueError(f"compare {', '.join(map(str, folders))}: expected two or more different folders of results")
    rows = [read_rows(folder) for folder in folders]
    available = [list(dict.fromkeys(dataset for dataset, _ in run_rows)) for run_rows in rows]
    chosen = list(datasets) if datasets else available[0]
    for folder, own in zip(folders, available, strict=True):
        if not set(chosen) <= set(own) or not (datasets or set(own) <= set(chosen)):
            common = [name for name in available[0] if all(name in other for other in available)]
            remedy = f"compare those in common with --datasets {' '.join(common)}" if common else "none is in common"
            raise ValueError(
                f"{folder} has the sets {', '.join(own)}, {folders[0]} {', '.join(available[0])}, "
                f"to be compared are {', '.join(chosen)}: {remedy}"
            )
    names = short_names(folders)
    runs = [
        Run(name, folder, run_rows, {dataset: read_pairs(folder, dataset) for dataset in chosen})
        for name, folder, run_rows in zip(names, folders, rows, strict=True)
    ]
    for run in runs:
        check_same_pairs(runs[0], run)
    return runs


def read_rows(folder: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """Rows of FOLDER/results.json by (dataset, label).

    Raises:
        FileNotFoundError, ValueError: the file is missing or damaged.
    """
    path = folder / "results.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path} not found: give folders that val_main.py wrote (its --out)")
    try:
        rows = json.loads(path.read_text())["rows"]
        return {(row["dataset"], label(row["obfuscation"], row["condition"])): row for row in rows}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged or not val_main.py's ({error!r}): evaluate again") from error


def check_same_pairs(first: Run, other: Run) -> None:
    """Raises ValueError: the two runs have different images or pairs of a set."""
    for dataset, scores in first.scores.items():
        theirs = other.scores[dataset]
        if len(scores.same) != len(theirs.same):
            difference = f"{len(scores.same)} and {len(theirs.same)} pairs"
        elif scores.digest != theirs.digest:
            difference = "different images or pairs"
        else:
            continue
        raise ValueError(
            f"{first.folder} and {other.folder} have {difference} of {dataset}: runs are compared on the same pairs; "
            "evaluate both on the same files (--data-root)"
        )


def short_names(folders: Sequence[Path]) -> list[str]:
    """Return the folders' paths without the leading and trailing parts that all share."""
    parts = [folder.resolve().parts for folder in folders]
    while len({names[0] for names in parts}) == 1 and min(map(len, parts)) > 1:
        parts = [names[1:] for names in parts]
    while len({names[-1] for names in parts}) == 1 and min(map(len, parts)) > 1:
        parts = [names[:-1] for names in parts]
    return ["/".join(names) for names in parts]


def comparison_table(runs: Sequence[Run]) -> Table:
    """Make a table with a line for each condition and run; "-" where the first run lacks the condition."""
    every_row = [row for run in runs for row in run.rows.values()]
    figures = [figure for figure in shown_figures() if any(figure.find(row) is not None for row in every_row)]
    extras = [extra for extra in EXTRAS.values() if extra.title and any(extra.key in row for row in every_row)]
    body = []
    for dataset, first_scores in runs[0].scores.items():
        names = dict.fromkeys(name for run in runs for name in run.scores[dataset].labels)
        for name in names:
            first_row = runs[0].rows.get((dataset, name))
            for run in runs:
                row = run.rows.get((dataset, name))
                if row is None:
                    continue
                compared = ["-"] * len(COMPARED)
                if run is not runs[0] and first_row is not None:
                    compared = _compared(
                        first_scores, run.scores[dataset], name, row["accuracy"] - first_row["accuracy"]
                    )
                shown = [_with_interval(figure, row) for figure in figures]
                shown += [show_extra(extra, row.get(extra.key)) for extra in extras]
                body.append([dataset, name, run.name, *shown, *compared])
    titles = [*(figure.column for figure in figures), *(extra.title for extra in extras)]
    return Table(["dataset", "condition", "run", *titles, *COMPARED], body, text_columns=3)


def run_costs(runs: Sequence[Run]) -> Table | None:
    """Make a table of the costs of client and server by condition and run; None where no run has costs."""
    rows = [(row, run) for run in runs for row in run.rows.values()]
    return cost_table(["condition", "run"], (((row["condition"], run.name), row) for row, run in rows))


def _with_interval(figure: Figure, row: dict[str, Any]) -> str:
    """Format the figure of a row of results.json; the accuracy, by which runs are compared, with its interval."""
    interval = figure.find(row, "_interval") if figure.key == "accuracy" else None
    return with_interval(figure.show, figure.find(row), interval)


def _compared(first: PairScores, other: PairScores, name: str, difference: float) -> list[str]:
    result = mcnemar(first.correct_of(name), other.correct_of(name))
    p_value = f"{result.p_value:.3f}" if result.p_value >= 0.001 else "< 0.001"
    return [f"{100 * difference:+.2f}", str(result.only_first), str(result.only_second), p_value]


def overlaid_curves(runs: Sequence[Run], dataset: str) -> dict[str, dict[str, Curve]]:
    """Collect the ROCs by condition, then by run."""
    curves: dict[str, dict[str, Curve]] = {}
    for run in runs:
        scores = run.scores[dataset]
        for name, distances in zip(scores.labels, scores.distances, strict=True):
            curves.setdefault(name, {})[run.name] = roc(distances, scores.same)[:2]
    return curves


def write_comparison(out: Path, runs: Sequence[Run], table: Table, costs: Table | None) -> list[Path]:
    """Write OUT/compare.md, compare.csv and the plots, and return their paths."""
    folders = "".join(f"- {run.name}: {run.folder}\n" for run in runs)
    cost_text = f"\n## Cost of a face\n\n{costs.markdown()}" if costs else ""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([table.columns, *table.body])
    atomic_write_text(out / "compare.md", f"# Comparison\n\n{folders}\n{table.markdown()}\n{NOTE}\n{cost_text}")
    atomic_write_text(out / "compare.csv", text.getvalue())
    plots = []
    for dataset, scores in runs[0].scores.items():
        supported = measured_from(int((~scores.same).sum()))
        figure = overlay_figure(overlaid_curves(runs, dataset), f"ROC, {dataset}", supported)
        plots.append(save_png(figure, out / f"compare_roc_{file_name(dataset)}.png"))
    return [out / "compare.md", out / "compare.csv", *plots]


def main(arguments: argparse.Namespace) -> None:
    runs = load_runs(arguments.runs, arguments.datasets)
    table = comparison_table(runs)
    print(table.text())
    print(NOTE)
    costs = run_costs(runs)
    if costs:
        print("\n" + costs.text())
    print("wrote " + ", ".join(map(str, write_comparison(arguments.out, runs, table, costs))))


if __name__ == "__main__":
    parsed = parse_arguments()
    run_command(lambda: main(parsed), parsed.traceback)
