"""Write all files of a validation.

results.json, results.csv, results.md, report.html, accuracy.png, and for each set roc_SET.png, det_SET.png,
distances_SET.png and pairs_SET.npz.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from torchkit.data.validation_set import ValidationSet
from validation.measure.conditions import Case
from validation.protocol.figures import measured_from
from validation.protocol.intervals import bootstrap
from validation.protocol.pairs import PairScores, score_pairs, write_pairs
from validation.protocol.verification import pair_distances, roc, verify_distances
from validation.report.chart import file_name, inline_svg, save_png
from validation.report.examples import Example
from validation.report.html import Chart, Section, write_html
from validation.report.plots import accuracy_figure, det_figure, histogram_figure, roc_figure
from validation.report.rows import Row, write_results
from validation.report.tables import Table

CAPTIONS = {
    "accuracy": "Accuracy; bars of one deviation over the folds",
    "roc": "ROC: how many genuine pairs match at each false match rate; higher is better. On the left border no "
    "impostor pair matches; on grey ground too few do to rely on the rate",
    "det": "DET: both error rates; lower is better. On the left border no impostor pair matches, on the lower one "
    "every genuine pair does; on grey ground too few impostor pairs do to rely on the rate",
    "distances": "Distances of genuine and impostor pairs, and the mean threshold of the folds",
}


@dataclass(frozen=True, eq=False)
class SetResult:
    """The results on one validation set."""

    rows: Sequence[Row]
    scores: PairScores
    examples: Sequence[Example]


def score_set(
    data: ValidationSet,
    embeddings: Mapping[Case, np.ndarray],
    resamples: int,
    seed: int,
    extras: Mapping[Case, Mapping[str, float]] | None = None,
    published: float | None = None,
    examples: Sequence[Example] = (),
) -> SetResult:
    """Score a set in every case.

    Args:
        data: the set.
        embeddings: (N, D) of its rows.
        resamples: for the intervals; 0: none.
        seed: of the resamples.
        extras: further values of each case, by keys of `EXTRAS` and `COSTS`.
        published: accuracy that the recogniser's authors state for clear images.
        examples: of its faces.
    """
    distances = {case: pair_distances(array) for case, array in embeddings.items()}
    rows = [
        Row(
            dataset=data.name,
            obfuscation=case.obfuscation,
            condition=case.name,
            result=verify_distances(case_distances, data.same),
            images=len(data.images),
            pairs=len(data.same),
            extras=dict((extras or {}).get(case, {})),
            intervals=bootstrap(case_distances, data.same, resamples, seed) if resamples else None,
            reference_accuracy=published if case.name == "clear" else None,
        )
        for case, case_distances in distances.items()
    ]
    by_label = {row.label: case_distances for row, case_distances in zip(rows, distances.values(), strict=True)}
    return SetResult(rows, score_pairs(data, by_label, {row.label: row.result for row in rows}), examples)


def write_outputs(out: Path, results: Sequence[SetResult], config: dict[str, Any], notes: Sequence[str]) -> list[Path]:
    """Write all files to OUT and return their paths, the readable ones first."""
    rows = [row for result in results for row in result.rows]
    written, sections = [], []
    for result in results:
        paths, charts = _draw(out, result)
        written += [*paths, write_pairs(out, result.scores)]
        sections.append(Section(result.scores.dataset, charts, result.examples))
    page = write_html(out, rows, sections, config, notes)
    tables = write_results(out, rows, config, notes)
    return [page, *tables.values(), save_png(accuracy_figure(rows), out / "accuracy.png"), *written]


def print_report(tables: Sequence[Table], notes: Sequence[str], written: Sequence[Path]) -> None:
    """Print the tables and notes, and the paths of all files."""
    for table in tables:
        print(table.text())
    print("\n".join(textwrap.fill(note, 110, initial_indent="* ", subsequent_indent="  ") for note in notes) + "\n")
    print("wrote " + ", ".join(map(str, written)))


def _draw(out: Path, result: SetResult) -> tuple[list[Path], list[Chart]]:
    """The charts of a set, as files (accuracy.png is one for all sets) and for the page."""
    scores = result.scores
    distances = dict(zip(scores.labels, scores.distances, strict=True))
    curves = {name: roc(case_distances, scores.same)[:2] for name, case_distances in distances.items()}
    supported = measured_from(int((~scores.same).sum()))
    thresholds = {row.label: row.result.threshold for row in result.rows}
    figures = {
        "accuracy": accuracy_figure(result.rows),
        "roc": roc_figure(curves, f"ROC, {scores.dataset}", supported),
        "det": det_figure(curves, f"DET, {scores.dataset}", supported),
        "distances": histogram_figure(distances, scores.same, thresholds, f"distances, {scores.dataset}"),
    }
    name = file_name(scores.dataset)
    charts = [
        Chart(inline_svg(figure, f"{kind}-{name}", f"{CAPTIONS[kind]}, {scores.dataset}"), CAPTIONS[kind])
        for kind, figure in figures.items()
    ]
    paths = [save_png(figure, out / f"{kind}_{name}.png") for kind, figure in figures.items() if kind != "accuracy"]
    return paths, charts
