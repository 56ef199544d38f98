"""Results of a validation as tables and files: for the terminal, Markdown, CSV and JSON.

Every number in a `Row` is a rate from 0 to 1; per cent appear only in what people read.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torchkit.util.files import atomic_write_text
from validation.protocol.intervals import Interval, Intervals
from validation.protocol.verification import FALSE_MATCHES_NEEDED, REPORTED_FARS, Verification
from validation.report.tables import Table

CONDITIONS = ("clear", "obfuscated", "compensated")
"""What the recogniser saw: the clear image, the obfuscated one, or that with the client's features."""

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


@dataclass(frozen=True)
class Row:
    """A dataset under one condition.

    Attributes:
        dataset: name of the validation set.
        obfuscation: name, or None for clear images, which then go with every obfuscation of the dataset.
        condition: "clear", "obfuscated" or "compensated".
        result: the rates, 0 to 1.
        images: distinct images of the set.
        pairs: pairs of the set.
        payload_bytes: mean size of what the client sends for an image; None where no features are sent.
        payload_image_bytes: of that, the obfuscated image.
        payload_feature_bytes: of that, the features of all taps.
        intervals: of the rates, None where none were asked for.
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
    payload_bytes: float | None = None
    payload_image_bytes: float | None = None
    payload_feature_bytes: float | None = None
    intervals: Intervals | None = None
    reference_accuracy: float | None = None

    def __post_init__(self) -> None:
        if self.condition not in CONDITIONS:
            raise ValueError(f"condition {self.condition!r}, expected one of {', '.join(CONDITIONS)}")
        if self.obfuscation is None and self.condition != "clear":
            raise ValueError(f"condition {self.condition!r} without an obfuscation: name the one that was used")

    @property
    def label(self) -> str:
        return label(self.obfuscation, self.condition)

    def flat(self) -> dict[str, Any]:
        """The row as results.json holds it: rates and intervals side by side, without the two records."""
        rates = asdict(self.result)
        missing = rates.pop("tar_at_far_missing")
        found = asdict(self.intervals) if self.intervals else dict.fromkeys(("accuracy", "auc", "eer", "tar_at_far"))
        return {
            "dataset": self.dataset,
            "obfuscation": self.obfuscation,
            "condition": self.condition,
            **rates,
            "images": self.images,
            "pairs": self.pairs,
            "payload_bytes": self.payload_bytes,
            "payload_image_bytes": self.payload_image_bytes,
            "payload_feature_bytes": self.payload_feature_bytes,
            "tar_at_far_missing": missing,
            **{f"{name}_interval": interval for name, interval in found.items()},
            "reference_accuracy": self.reference_accuracy,
        }


def label(obfuscation: str | None, condition: str) -> str:
    """How charts and files call a condition: "clear", "gaussian, obfuscated", ..."""
    return condition if obfuscation is None else f"{obfuscation}, {condition}"


def group_rows(rows: Iterable[Row]) -> dict[tuple[str, str | None], dict[str, Row]]:
    """Rows by condition, by (dataset, obfuscation), in order of first appearance.

    Clear rows without an obfuscation are put beside each obfuscation of their dataset.

    Raises:
        ValueError: two rows for the same place.
    """
    groups: dict[tuple[str, str | None], dict[str, Row]] = {}
    for row in rows:
        found = groups.setdefault((row.dataset, row.obfuscation), {})
        if row.condition in found:
            raise ValueError(f"two rows for {row.dataset}, {row.obfuscation}, {row.condition}: give one of each")
        found[row.condition] = row
    obfuscated = {dataset for dataset, obfuscation in groups if obfuscation is not None}
    return {
        (dataset, obfuscation): groups.get((dataset, None), {}) | found
        for (dataset, obfuscation), found in groups.items()
        if obfuscation is not None or dataset not in obfuscated
    }


def summary_table(rows: Sequence[Row]) -> Table:
    """A line for each dataset and obfuscation: accuracies in % with their deviation over the folds, recovery in %.

    "-" stands where a number is missing, and for the recovery where there was no loss. The published accuracy has a
    column only if there is one.
    """
    published = any(row.reference_accuracy is not None for row in rows)
    columns = ["dataset", "obfuscation", *(f"{condition} %" for condition in CONDITIONS), "recovery %"]
    if published:
        columns.insert(3, "published %")
    body = []
    for (dataset, obfuscation), found in group_rows(rows).items():
        line = [dataset, obfuscation or "-", *(_with_deviation(found.get(name)) for name in CONDITIONS)]
        line.append(per_cent(recovery(found), 1))
        if published:
            line.insert(3, per_cent(found["clear"].reference_accuracy if "clear" in found else None))
        body.append(line)
    return Table(columns, body, text_columns=2)


def rates_table(rows: Sequence[Row], intervals: bool) -> Table:
    """A line for each row: all its rates in %, with their intervals if asked for and known."""
    names = [f"TAR@FAR={far} %" for far in REPORTED_FARS]
    columns = [
        "dataset",
        "obfuscation",
        "condition",
        "accuracy %",
        "AUC %",
        "EER %",
        *names,
        "threshold",
        "payload bytes",
    ]
    body = []
    for row in rows:
        result, found = row.result, row.intervals if intervals else None
        tars = found.tar_at_far if found else {}
        body.append([
            row.dataset,
            row.obfuscation or "-",
            row.condition,
            with_interval(result.accuracy, found.accuracy if found else None),
            with_interval(result.auc, found.auc if found else None),
            with_interval(result.eer, found.eer if found else None),
            *(with_interval(result.tar_at_far.get(far), tars.get(far)) for far in REPORTED_FARS),
            f"{result.threshold:.3f}",
            "-" if row.payload_bytes is None else f"{row.payload_bytes:,.0f}",
        ])  # fmt: skip
    return Table(columns, body, text_columns=3)


def notes_on(rows: Sequence[Row]) -> list[str]:
    """What a reader of the tables has to know, a sentence or two each."""
    notes = [PROTOCOL, WORDS, RECOVERY]
    if any(row.intervals for row in rows):
        notes.append(INTERVALS)
    if any(row.payload_bytes is not None for row in rows):
        notes.append(PAYLOAD)
    missing = {row.dataset: row.result.tar_at_far_missing for row in rows}
    reasons = [f"{name} at {far} ({reason})" for name, fars in missing.items() for far, reason in fars.items()]
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
        ValueError: a number is not finite, which JSON cannot say.
        TypeError: the config holds something else than JSON's types, paths and tuples.
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


def recovery(found: dict[str, Row]) -> float | None:
    """(compensated - obfuscated) / (clear - obfuscated); None where there was no loss or a number is missing."""
    if any(condition not in found for condition in CONDITIONS):
        return None
    clear, obfuscated, compensated = (found[condition].result.accuracy for condition in CONDITIONS)
    return None if clear <= obfuscated else (compensated - obfuscated) / (clear - obfuscated)


def per_cent(rate: float | None, digits: int = 2) -> str:
    """A rate, 0 to 1, in per cent; "-" for None."""
    return "-" if rate is None else f"{100 * rate:.{digits}f}"


def with_interval(rate: float | None, interval: Interval | None) -> str:
    """ "96.20 [95.62, 96.82]", or without the brackets."""
    return (
        per_cent(rate) if interval is None else f"{per_cent(rate)} [{per_cent(interval[0])}, {per_cent(interval[1])}]"
    )


def _with_deviation(row: Row | None) -> str:
    return "-" if row is None else f"{per_cent(row.result.accuracy)} +/- {per_cent(row.result.accuracy_std)}"


def _json_value(value: object) -> str:
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"results cannot hold {value!r} of type {type(value).__name__}: give numbers, text or paths")


def _csv_text(rows: Sequence[Row]) -> str:
    """One line a row; TARs and ends of intervals get a column each, and what is None stays empty."""
    lines = [_csv_cells(row.flat()) for row in rows]
    names = list(dict.fromkeys(name for line in lines for name in line))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def _csv_cells(flat: dict[str, Any]) -> dict[str, Any]:
    tars, tar_intervals = flat.pop("tar_at_far"), flat.pop("tar_at_far_interval")
    del flat["tar_at_far_missing"]  # an empty cell says it
    intervals = {name: flat.pop(f"{name}_interval") for name in ("accuracy", "auc", "eer")}
    named = {f"tar_at_far_{far}": rate for far, rate in tars.items()}
    intervals |= {f"tar_at_far_{far}": (tar_intervals or {}).get(far) for far in tars}
    ends = {
        f"{name}_{end}": interval[place] if interval else None
        for name, interval in intervals.items()
        for place, end in enumerate(("low", "high"))
    }
    return flat | named | ends


def _markdown_text(rows: Sequence[Row], notes: Sequence[str]) -> str:
    parts = [
        "# Verification results\n",
        summary_table(rows).markdown(),
        "## All rates\n",
        rates_table(rows, intervals=True).markdown(),
        "".join(f"- {note}\n" for note in notes),
    ]
    return "\n".join(part for part in parts if part)
