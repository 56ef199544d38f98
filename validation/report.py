"""Results of a validation: a table for the terminal, files for programs, and charts.

Every number in a `Row` is a rate from 0 to 1; per cent appear only in the table and the charts.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from torchkit.util.files import atomic_write_bytes, atomic_write_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CONDITIONS = ("clear", "obfuscated", "compensated")
"""What the recogniser saw: the clear picture, the obfuscated one, or that with the client's features."""

_COLOURS = {"clear": "#4c78a8", "obfuscated": "#a6a6a6", "compensated": "#f58518"}
_CHANCE_PERCENT = 50.0
_DPI = 150


@dataclass(frozen=True)
class Row:
    """One accuracy: a dataset under one condition. `Verification` has fields of the same names.

    Attributes:
        dataset: name of the validation set.
        obfuscation: name, or None for clear pictures, which then go with every obfuscation of the dataset.
        condition: "clear", "obfuscated" or "compensated".
        accuracy, accuracy_std, threshold, auc, eer, tar_at_far: see `Verification`; rates are 0 to 1.
        images: distinct images of the set.
        pairs: pairs of the set.
        payload_bytes: mean size of what the client sends for a picture, None where nothing is sent.

    Raises:
        ValueError: another condition, or an obfuscation missing where the condition needs one.
    """

    dataset: str
    obfuscation: str | None
    condition: str
    accuracy: float
    accuracy_std: float
    threshold: float
    auc: float
    eer: float
    tar_at_far: dict[str, float | None]
    images: int
    pairs: int
    payload_bytes: float | None = None

    def __post_init__(self) -> None:
        if self.condition not in CONDITIONS:
            raise ValueError(f"condition {self.condition!r}, expected one of {', '.join(CONDITIONS)}")
        if self.obfuscation is None and self.condition != "clear":
            raise ValueError(f"condition {self.condition!r} without an obfuscation: name the one that was used")


def format_table(rows: Sequence[Row]) -> str:
    """A plain text table: a line for each dataset and obfuscation, accuracies in % with their deviation.

    The last column is the part of the loss that the compensation brings back, in %:
    (compensated - obfuscated) / (clear - obfuscated), or "-" where there was no loss or a number is missing.
    """
    lines = [["dataset", "obfuscation", *(f"{condition} %" for condition in CONDITIONS), "recovery %"]]
    for (dataset, obfuscation), found in _group(rows).items():
        accuracies = [_with_deviation(found.get(condition)) for condition in CONDITIONS]
        lines.append([dataset, obfuscation or "-", *accuracies, _recovery(found)])
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    lines.insert(1, ["-" * width for width in widths])
    text_columns = 2  # the others hold numbers
    aligned = [
        "  ".join(
            cell.ljust(width) if column < text_columns else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    ]
    return "\n".join(aligned) + "\n"


def write_results(out_dir: Path, rows: Sequence[Row], config: dict[str, Any]) -> Path:
    """Write OUT/results.csv and OUT/results.json ({"rows": [...], "config": {...}}), and return the latter.

    Raises:
        ValueError: a number is not finite, which JSON cannot say.
        TypeError: the config holds something else than JSON's types, paths and tuples.
    """
    out_dir = Path(out_dir)
    content = {"rows": [asdict(row) for row in rows], "config": config}
    text = json.dumps(content, indent=2, allow_nan=False, default=_json_value) + "\n"
    atomic_write_text(out_dir / "results.csv", _csv_text(rows))
    atomic_write_text(out_dir / "results.json", text)
    return out_dir / "results.json"


def draw_accuracy(out_dir: Path, rows: Sequence[Row]) -> Path:
    """Draw OUT/accuracy.png: a panel for each dataset, in it the bars of each obfuscation, in %.

    Raises:
        ValueError: there are no rows, or two for the same bar.
    """
    if not rows:
        raise ValueError("no rows to draw: validate at least one dataset")
    panels: dict[str, dict[str | None, dict[str, Row]]] = {}
    for (dataset, obfuscation), found in _group(rows).items():
        panels.setdefault(dataset, {})[obfuscation] = found
    columns = min(len(panels), 3)
    lines = -(-len(panels) // columns)
    panel_width = max(3.0, 1.0 + 1.1 * max(len(panel) for panel in panels.values()))
    figure = _new_figure(max(4.6, panel_width * columns), 0.6 + 3.0 * lines)  # the legend needs its width
    worst = 100 * min(row.accuracy - row.accuracy_std for row in rows)
    bottom = max(0.0, min(_CHANCE_PERCENT, 10 * np.floor(worst / 10)))
    for position, (dataset, panel) in enumerate(panels.items()):
        axes = figure.add_subplot(lines, columns, position + 1)
        _draw_bars(axes, panel, bottom)
        axes.set_title(dataset)
        axes.set_ylabel("accuracy (%)" if position % columns == 0 else "")
    handles = {
        label: bars for axes in figure.axes for bars, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    shown = [condition for condition in CONDITIONS if condition in handles]
    bars = [handles[condition] for condition in shown]
    figure.legend(bars, shown, loc="outside upper center", ncols=len(shown), frameon=False)
    return _save(figure, Path(out_dir) / "accuracy.png")


def draw_roc(out_dir: Path, curves: dict[str, tuple[np.ndarray, np.ndarray]], title: str) -> Path:
    """Draw OUT/roc_TITLE.png: true match rate over false match rate, the latter on a logarithmic axis.

    Args:
        out_dir: folder of the results.
        curves: (false match rate, true match rate) by label, each (k,), rising, 0 to 1, as from `roc`.
        title: of the chart; the file's name keeps its letters, digits, "-" and "_".

    Raises:
        ValueError: there are no curves.
    """
    if not curves:
        raise ValueError(f"no curves to draw for {title!r}: give at least one")
    smallest = min((fmr[fmr > 0].min() for fmr, _ in curves.values() if (fmr > 0).any()), default=1.0)
    left = 10.0 ** (np.ceil(np.log10(smallest)) - 1)  # the place of rate 0, which a logarithm does not have
    figure = _new_figure(7.4, 4.4)
    axes = figure.add_subplot()
    colours = _roc_colours(list(curves))
    for label, (fmr, tmr) in curves.items():
        start = max(int(np.searchsorted(fmr, 0, side="right")) - 1, 0)  # the best point of rate 0
        x, y = np.maximum(fmr[start:], left), 100 * tmr[start:]
        style = "--" if label.endswith("obfuscated") else "-"
        axes.step(x, y, style, where="post", linewidth=1.6, label=label, color=colours[label], clip_on=False)
    chance = np.geomspace(left, 1, 200)
    axes.plot(chance, 100 * chance, color="0.6", linestyle=":", linewidth=1.2, label="chance")
    axes.set(xscale="log", xlim=(left, 1), ylim=(0, 100), title=title)
    axes.set(xlabel="false match rate", ylabel="true match rate (%)")
    axes.xaxis.set_minor_formatter("")
    axes.grid(color="0.9")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside right upper", frameon=False)
    name = re.sub(r"[^A-Za-z0-9_-]+", "_", title).strip("_")
    return _save(figure, Path(out_dir) / f"roc_{name}.png")


def _roc_colours(labels: Sequence[str]) -> dict[str, str]:
    """A colour for each label; "gaussian, obfuscated" and "gaussian, compensated" share one."""
    kinds = list(dict.fromkeys(label.partition(",")[0] for label in labels))
    return {label: f"C{kinds.index(label.partition(',')[0])}" for label in labels}


def _group(rows: Sequence[Row]) -> dict[tuple[str, str | None], dict[str, Row]]:
    """Rows by condition, by (dataset, obfuscation), in order of first appearance.

    Clear rows without an obfuscation are put beside each obfuscation of their dataset.
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


def _with_deviation(row: Row | None) -> str:
    return "-" if row is None else f"{100 * row.accuracy:.2f} +/- {100 * row.accuracy_std:.2f}"


def _recovery(found: dict[str, Row]) -> str:
    if any(condition not in found for condition in CONDITIONS):
        return "-"
    clear, obfuscated, compensated = (found[condition].accuracy for condition in CONDITIONS)
    return "-" if clear <= obfuscated else f"{100 * (compensated - obfuscated) / (clear - obfuscated):.1f}"


def _json_value(value: object) -> str:
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"results cannot hold {value!r} of type {type(value).__name__}: give numbers, text or paths")


def _csv_text(rows: Sequence[Row]) -> str:
    """One line a row; the TARs get a column each, and what is None stays empty."""
    names = [field.name for field in fields(Row) if field.name != "tar_at_far"]
    fars = list(dict.fromkeys(far for row in rows for far in row.tar_at_far))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*names, *(f"tar_at_far_{far}" for far in fars)])
    for row in rows:
        writer.writerow([*(getattr(row, name) for name in names), *(row.tar_at_far.get(far) for far in fars)])
    return text.getvalue()


def _new_figure(width_inches: float, height_inches: float) -> Figure:
    """A figure outside pyplot: nothing global, no display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width_inches, height_inches), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _draw_bars(axes: Axes, panel: dict[str | None, dict[str, Row]], bottom: float) -> None:
    """The bars of a dataset: a group for each obfuscation, in it a bar for each condition that occurs."""
    shown = [condition for condition in CONDITIONS if any(condition in found for found in panel.values())]
    width = 0.8 / len(shown)
    for place, condition in enumerate(shown):
        at = [group for group, found in enumerate(panel.values()) if condition in found]
        found_rows = [found[condition] for found in panel.values() if condition in found]
        centres = np.array(at) + (place - (len(shown) - 1) / 2) * width
        heights = np.array([100 * row.accuracy for row in found_rows])
        deviations = np.array([100 * row.accuracy_std for row in found_rows])
        axes.bar(centres, heights - bottom, 0.92 * width, bottom, color=_COLOURS[condition], label=condition)
        axes.errorbar(centres, heights, deviations, fmt="none", ecolor="0.25", elinewidth=1, capsize=2)
        for centre, top, height in zip(centres, heights + deviations, heights, strict=True):
            axes.annotate(
                f"{height:.1f}",
                (centre, top),
                (0, 2),
                textcoords="offset points",
                ha="center",
                va="bottom",
                fontsize=7,
            )
    axes.set_xticks(range(len(panel)), [obfuscation or "no obfuscation" for obfuscation in panel])
    axes.set_xlim(-0.6, len(panel) - 0.4)
    axes.set_ylim(bottom, 105)  # room for the numbers above the bars
    axes.set_yticks(np.arange(bottom, 101, 10))
    axes.grid(axis="y", color="0.9")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _save(figure: Figure, path: Path) -> Path:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI)
    atomic_write_bytes(path, buffer.getvalue())
    return path
