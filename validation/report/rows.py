"""Results of a validation as tables and files: for the terminal, Markdown, CSV and JSON.

Every number in a `Row` is a rate from 0 to 1; per cent appear only in what people read.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torchkit.util.files import atomic_write_text
from validation.measure.conditions import CONDITIONS, DEFAULT_CONDITIONS
from validation.protocol.figures import FALSE_MATCHES_NEEDED, FIGURES, nested, shown_figures
from validation.protocol.intervals import Interval, Intervals
from validation.protocol.verification import Verification
from validation.report.tables import Table

PROTOCOL = (
    "accuracy: the LFW protocol. A pair matches, is called one person, when the squared L2 distance of its embeddings "
    "is below a threshold; each of 10 folds is counted at the threshold that is best on the other nine. +/-: the "
    "standard deviation over the folds."
)
WORDS = (
    "words (ISO/IEC 19795-1): a genuine pair shows one person, an impostor pair two. FMR, the false match rate, is the "
    "part of the impostor pairs that match, papers call it FAR; FNMR, the false non-match rate, the part of the "
    "genuine pairs that do not; 1 - FNMR is the true match rate, in papers TAR. ROC: 1 - FNMR over FMR, AUC the area "
    "under it; DET: FNMR over FMR; EER: the rate at which both are equal."
)
RECOVERY = (
    "recovery: (compensated - obfuscated) / (clear - obfuscated), the part of the loss that the features bring back."
)
INTERVALS = (
    "[low, high]: 95 % interval, percentile bootstrap over pairs, genuine and impostor pairs drawn separately; for the "
    "accuracy within folds, thresholds chosen anew. Pairs that share images or people are taken as independent."
)
PAYLOAD = (
    "payload bytes: mean size of a message, obfuscated image and features, over up to 128 images; --flip sends two."
)

COST = (
    "cost of a face: MMAC, millions of multiply-adds of convolutions, linear layers and matrix products, as they are "
    "run; ms, latency of the networks on this machine's CPU, float32, in PyTorch and in ONNX Runtime. Obfuscation, "
    "coding and linear maps of conditions are not counted."
)


@dataclass(frozen=True)
class Extra:
    """A value of a row beside its figures: an entry of one of the tables `EXTRAS` and `COSTS`."""

    key: str
    """Its key in `Row.extras` and in the files."""
    title: str = ""
    """Title of its column; "": none."""
    show: Callable[[float], str] = "{:,.0f}".format


EXTRAS = {
    extra.key: extra
    for extra in (
        Extra("payload_bytes", "payload bytes"),
        Extra("payload_image_bytes"),
        Extra("payload_feature_bytes"),
    )
}
"""payload_bytes: mean size of what the client sends for an image; of that, the obfuscated image and all features."""


def _millions(value: float) -> str:
    return f"{value / 1e6:,.1f}"


def _milliseconds(value: float) -> str:
    return f"{value:.1f}"


COSTS = {
    f"{party}_{name}": Extra(f"{party}_{name}", f"{party} {title}", show)
    for name, title, show in (
        ("macs", "MMAC", _millions),
        ("parameters", "parameters", "{:,.0f}".format),
        ("latency_ms", "ms", _milliseconds),
        ("onnx_latency_ms", "ms (ONNX)", _milliseconds),
    )
    for party in ("client", "server")
}
"""What either party runs for a face; the same on every set, so that it has a table of its own."""


def show_extra(extra: Extra, value: float | None) -> str:
    """Format the value; "-" for None."""
    return "-" if value is None else extra.show(value)


@dataclass(frozen=True)
class Row:
    """A dataset under one condition.

    Attributes:
        dataset: name of the validation set.
        obfuscation: name, or None for a condition without one, which then goes with every obfuscation of the dataset.
        condition: a key of `CONDITIONS`.
        result: the figures.
        images: distinct images of the set.
        pairs: pairs of the set.
        extras: further values, by keys of `EXTRAS` and `COSTS`.
        intervals: of the figures, None where none were asked for.
        reference_accuracy: what the recogniser's authors published, 0 to 1, or None.

    Raises:
        ValueError: another condition, or an obfuscation missing where the condition needs one.
    """

    dataset: str
    obfuscation: str | None
    condition: str
    result: Verification
    images: int
    pairs: int
    extras: dict[str, float] = field(default_factory=dict)
    intervals: Intervals | None = None
    reference_accuracy: float | None = None

    def __post_init__(self) -> None:
        if self.condition not in CONDITIONS:
            raise ValueError(f"condition {self.condition!r}, expected one of {', '.join(CONDITIONS)}")
        if self.obfuscation is None and CONDITIONS[self.condition].needs_obfuscation:
            raise ValueError(f"condition {self.condition!r} without an obfuscation: name the one that was used")
        assert self.extras.keys() <= EXTRAS.keys() | COSTS.keys(), self.extras

    @property
    def label(self) -> str:
        return label(self.obfuscation, self.condition)

    def flat(self) -> dict[str, Any]:
        """The row as results.json holds it: figures, their intervals and what else is known side by side."""
        groups = {figure.group for figure in FIGURES.values() if figure.group is not None}
        resampled = [figure.group or figure.name for figure in FIGURES.values() if figure.has_interval]
        return {
            "dataset": self.dataset,
            "obfuscation": self.obfuscation,
            "condition": self.condition,
            **nested(self.result.values),
            "images": self.images,
            "pairs": self.pairs,
            **{key: self.extras.get(key) for key in (*EXTRAS, *COSTS)},
            **{f"{group}_missing": {} for group in groups},
            **nested(self.result.missing, "_missing"),
            **{f"{name}_interval": None for name in resampled},
            **nested(self.intervals or {}, "_interval"),
            "reference_accuracy": self.reference_accuracy,
        }


def label(obfuscation: str | None, condition: str) -> str:
    """How charts and files call a condition: "clear", "gaussian, obfuscated", ..."""
    return condition if obfuscation is None else f"{obfuscation}, {condition}"


def group_rows(rows: Iterable[Row]) -> dict[tuple[str, str | None], dict[str, Row]]:
    """Rows by condition, by (dataset, obfuscation), in order of first appearance.

    Rows without an obfuscation are put beside each obfuscation of their dataset.

    Raises:
        ValueError: two rows for the same place.
    """
    groups: dict[tuple[str, str | None], dict[str, Row]] = {}
    for row in rows:
        by_condition = groups.setdefault((row.dataset, row.obfuscation), {})
        if row.condition in by_condition:
            raise ValueError(f"two rows for {row.dataset}, {row.obfuscation}, {row.condition}: give one of each")
        by_condition[row.condition] = row
    obfuscated = {dataset for dataset, obfuscation in groups if obfuscation is not None}
    return {
        (dataset, obfuscation): groups.get((dataset, None), {}) | by_condition
        for (dataset, obfuscation), by_condition in groups.items()
        if obfuscation is not None or dataset not in obfuscated
    }


def summary_table(rows: Sequence[Row]) -> Table:
    """A line for each dataset and obfuscation: accuracies in % with their deviation over the folds, recovery in %.

    "-" stands where a number is missing, and for the recovery where there was no loss. The published accuracy has a
    column only if there is one.
    """
    published = any(row.reference_accuracy is not None for row in rows)
    conditions = conditions_of(rows)
    columns = ["dataset", "obfuscation", *(f"{condition} %" for condition in conditions), "recovery %"]
    if published:
        columns.insert(3, "published %")
    body = []
    for (dataset, obfuscation), by_condition in group_rows(rows).items():
        line = [dataset, obfuscation or "-", *(_with_deviation(by_condition.get(name)) for name in conditions)]
        line.append(per_cent(recovery(by_condition), 1))
        if published:
            line.insert(3, per_cent(by_condition["clear"].reference_accuracy if "clear" in by_condition else None))
        body.append(line)
    return Table(columns, body, text_columns=2)


def conditions_of(rows: Iterable[Row]) -> list[str]:
    """The conditions that have a column in a summary: those of a usual evaluation, and all others that occur."""
    occurring = {row.condition for row in rows}
    return [name for name in CONDITIONS if name in occurring or name in DEFAULT_CONDITIONS]


def rates_table(rows: Sequence[Row], intervals: bool) -> Table:
    """A line for each row: all its figures, with their intervals if asked for and known, and what else is known."""
    figures, extras = shown_figures(), [extra for extra in EXTRAS.values() if extra.title]
    titles = [*(figure.column for figure in figures), *(extra.title for extra in extras)]
    body = []
    for row in rows:
        values, known = row.result.values, row.intervals if intervals and row.intervals else {}
        body.append([
            row.dataset,
            row.obfuscation or "-",
            row.condition,
            *(with_interval(figure.show, values.get(figure.key), known.get(figure.key)) for figure in figures),
            *(show_extra(extra, row.extras.get(extra.key)) for extra in extras),
        ])  # fmt: skip
    return Table(["dataset", "obfuscation", "condition", *titles], body, text_columns=3)


def cost_table(titles: Sequence[str], costs: Iterable[tuple[tuple[str, ...], Mapping[str, Any]]]) -> Table | None:
    """What client and server run for a face, and the client's multiply-adds as a share of the server's.

    Args:
        titles: of the columns that name a line.
        costs: these names, and values by key of `COSTS`; the first that are known of each.

    Returns:
        None where nothing is known.
    """
    known: dict[tuple[str, ...], Mapping[str, Any]] = {}
    for names, values in costs:
        if values.get("client_macs") is not None:
            known.setdefault(names, values)
    body = [
        [*names, *(show_extra(extra, values.get(key)) for key, extra in COSTS.items()), _client_share(values)]
        for names, values in known.items()
    ]
    columns = [*titles, *(extra.title for extra in COSTS.values()), "client/server %"]
    return Table(columns, body, text_columns=len(titles)) if body else None


def _client_share(values: Mapping[str, Any]) -> str:
    return per_cent(values["client_macs"] / values["server_macs"], 1) if values["server_macs"] else "-"


def condition_costs(rows: Iterable[Row]) -> Table | None:
    """`cost_table` by condition."""
    return cost_table(["condition"], (((row.condition,), row.extras) for row in rows))


def notes_on(rows: Sequence[Row]) -> list[str]:
    """List what a reader of the tables must know, a sentence or two each."""
    notes = [PROTOCOL, WORDS, RECOVERY]
    if any(row.intervals for row in rows):
        notes.append(INTERVALS)
    if any("payload_bytes" in row.extras for row in rows):
        notes.append(PAYLOAD)
    if any("client_macs" in row.extras for row in rows):
        notes.append(COST)
    missing = {(row.dataset, key): reason for row in rows for key, reason in row.result.missing.items()}
    reasons = [f"{dataset} at {FIGURES[key].name} ({reason})" for (dataset, key), reason in missing.items()]
    if reasons:
        rule = f"the rule of {FALSE_MATCHES_NEEDED}: that many false matches must be expected"
        notes.append(f'"-" at a FAR: too few impostor pairs to measure it ({rule}): {"; ".join(reasons)}.')
    return notes


def write_results(
    out_dir: Path, rows: Sequence[Row], config: dict[str, Any], notes: Sequence[str] = ()
) -> dict[str, Path]:
    """Write OUT/results.csv, results.md and results.json ({"rows": [...], "config": {...}, "notes": [...]}).

    Returns:
        The three paths, by ending.

    Raises:
        ValueError: a number is not finite, which JSON cannot represent.
        TypeError: the config holds other types than JSON's, paths and tuples.
    """
    out_dir = Path(out_dir)
    content = {"rows": [row.flat() for row in rows], "config": config, "notes": list(notes)}
    texts = {
        "json": json.dumps(content, indent=2, allow_nan=False, default=_json_value) + "\n",
        "csv": _csv_text(rows),
        "md": _markdown_text(rows, notes),
    }
    paths = {ending: out_dir / f"results.{ending}" for ending in texts}
    for ending, text in texts.items():
        atomic_write_text(paths[ending], text)
    return paths


def recovery(by_condition: dict[str, Row]) -> float | None:
    """(compensated - obfuscated) / (clear - obfuscated); None where there was no loss or a number is missing."""
    if any(condition not in by_condition for condition in DEFAULT_CONDITIONS):
        return None
    clear, obfuscated, compensated = (by_condition[condition].result.accuracy for condition in DEFAULT_CONDITIONS)
    return None if clear <= obfuscated else (compensated - obfuscated) / (clear - obfuscated)


def per_cent(rate: float | None, digits: int = 2) -> str:
    """A rate, 0 to 1, in per cent; "-" for None."""
    return "-" if rate is None else f"{100 * rate:.{digits}f}"


def with_interval(show: Callable[[float | None], str], value: float | None, interval: Interval | None) -> str:
    """ "96.20 [95.62, 96.82]", or without the brackets."""
    return show(value) if interval is None else f"{show(value)} [{show(interval[0])}, {show(interval[1])}]"


def _with_deviation(row: Row | None) -> str:
    return "-" if row is None else f"{per_cent(row.result.accuracy)} +/- {per_cent(row.result.accuracy_std)}"


def _json_value(value: object) -> str:
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"results cannot hold {value!r} of type {type(value).__name__}: give numbers, text or paths")


def _csv_text(rows: Sequence[Row]) -> str:
    """One line a row; TARs and ends of intervals get a column each, and what is None stays empty."""
    lines = [_csv_cells(row) for row in rows]
    names = list(dict.fromkeys(name for line in lines for name in line))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def _csv_cells(row: Row) -> dict[str, Any]:
    flat = row.flat()
    for figure in FIGURES.values():
        for suffix in ("", "_missing", "_interval"):  # an empty cell says that a figure is missing
            flat.pop(f"{figure.group or figure.name}{suffix}", None)
    intervals = row.intervals or {}
    ends = {
        f"{key}_{end}": None if (interval := intervals.get(key)) is None else interval[place]
        for key, figure in FIGURES.items()
        if figure.has_interval
        for place, end in enumerate(("low", "high"))
    }
    names = ("dataset", "obfuscation", "condition")
    return {name: flat.pop(name) for name in names} | row.result.values | flat | ends


def _markdown_text(rows: Sequence[Row], notes: Sequence[str]) -> str:
    parts = [
        "# Verification results\n",
        summary_table(rows).markdown(),
        "## All rates\n",
        rates_table(rows, intervals=True).markdown(),
        *(["## Cost of a face\n", costs.markdown()] if (costs := condition_costs(rows)) else []),
        "".join(f"- {note}\n" for note in notes),
    ]
    return "\n".join(part for part in parts if part)
