"""The charts of a validation, in one style: accuracies, ROC, DET, distances.

Colours stand for conditions, panels for obfuscations. Figures are narrow enough to be read on a phone.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from validation.measure.conditions import CONDITIONS
from validation.protocol.figures import FALSE_MATCHES_NEEDED
from validation.report.chart import GRID, INK, new_figure, styled
from validation.report.rows import Row, group_rows, label

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

KIND_COLOURS = {"genuine": "#1b8a7a", "impostor": "#c8553d"}
_WIDTH_INCHES = 4.8
_CHANCE_PERCENT = 50.0
_GRID_CELLS = 400  # finer than anybody sees
_BINS = 80
_TOO_FEW = f"< {FALSE_MATCHES_NEEDED} false matches"  # as long as the legend has room for

Curve = tuple[np.ndarray, np.ndarray]
"""False match rate and true match rate, each (k,), rising, 0 to 1, as from `roc`."""


@styled
def accuracy_figure(rows: Sequence[Row]) -> Figure:
    """A panel for each dataset, in it the bars of each obfuscation, in %, with the deviation over the folds.

    Raises:
        ValueError: there are no rows, or two for the same bar.
    """
    if not rows:
        raise ValueError("no rows to draw: validate at least one dataset")
    panels: dict[str, dict[str | None, dict[str, Row]]] = {}
    for (dataset, obfuscation), by_condition in group_rows(rows).items():
        panels.setdefault(dataset, {})[obfuscation] = by_condition
    columns = min(len(panels), 3)
    lines = -(-len(panels) // columns)
    panel_width = max(3.0, 1.0 + 1.1 * max(len(panel) for panel in panels.values()))
    # The legend needs the least width, four groups of bars are to fit in that of the other charts.
    figure = new_figure(max(4.6, min(panel_width, _WIDTH_INCHES) * columns), 0.6 + 3.0 * lines)
    worst = 100 * min(row.result.accuracy - row.result.accuracy_std for row in rows)
    bottom = max(0.0, min(_CHANCE_PERCENT, 10 * np.floor(worst / 10)))
    for position, (dataset, panel) in enumerate(panels.items()):
        axes = figure.add_subplot(lines, columns, position + 1)
        _draw_bars(axes, panel, bottom)
        axes.set_title(dataset)
        axes.set_ylabel("accuracy (%)" if position % columns == 0 else "")
    _legend_above(figure, list(CONDITIONS))
    return figure


@styled
def roc_figure(curves: Mapping[str, Curve], title: str, measured_from: float = 0) -> Figure:
    """True match rate over false match rate, the latter on a logarithmic axis: a panel for each obfuscation.

    A false match rate of 0, which a logarithm does not have, is drawn on the left border.

    Args:
        curves: by label, as `label` makes them; those without an obfuscation are drawn in every panel.
        title: of the chart.
        measured_from: false match rate below which the pairs are too few to measure it; what is below is shaded.

    Raises:
        ValueError: there are no curves.
    """
    figure, panels = _curve_panels(curves, title, "true match rate (%)")
    left = _smallest([fmr for fmr, _ in curves.values()])
    chance = np.geomspace(left, 1, 200)
    for axes, shown in panels:
        axes.set(xscale="log", xlim=(left, 1), ylim=(0, 100))
        axes.xaxis.set_minor_formatter("")
        _shade(axes, left, measured_from)
        for condition, (fmr, tmr) in shown.items():
            start = _last_of_rate_zero(fmr)
            _draw_curve(axes, condition, np.maximum(fmr[start:], left), 100 * tmr[start:])
        axes.plot(chance, 100 * chance, color=INK, linestyle=":", linewidth=0.9, label="chance")
    _legend_above(figure, [*CONDITIONS, "chance", _TOO_FEW], title, columns=3)
    return figure


@styled
def det_figure(curves: Mapping[str, Curve], title: str, measured_from: float = 0) -> Figure:
    """Detection error trade-off: false non-match rate over false match rate, both logarithmic.

    Rates of 0, which a logarithm does not have, are drawn on the border. Arguments and errors as `roc_figure`.
    """
    figure, panels = _curve_panels(curves, title, "false non-match rate")
    left = _smallest([fmr for fmr, _ in curves.values()])
    bottom = _smallest([1 - tmr for _, tmr in curves.values()])
    for axes, shown in panels:
        axes.set(xscale="log", yscale="log", xlim=(left, 1), ylim=(bottom, 1))
        axes.xaxis.set_minor_formatter("")
        axes.yaxis.set_minor_formatter("")
        _shade(axes, left, measured_from)
        for condition, (fmr, tmr) in shown.items():
            start = _last_of_rate_zero(fmr)
            _draw_curve(axes, condition, np.maximum(fmr[start:], left), np.maximum(1 - tmr[start:], bottom))
        equal = np.array([max(left, bottom), 1])
        axes.plot(equal, equal, color=INK, linestyle=":", linewidth=0.9, label="equal error")
    _legend_above(figure, [*CONDITIONS, "equal error", _TOO_FEW], title, columns=3)
    return figure


@styled
def histogram_figure(
    distances: Mapping[str, np.ndarray], same: np.ndarray, thresholds: Mapping[str, float], title: str
) -> Figure:
    """How far apart genuine and impostor pairs are: a panel for each condition, with the mean threshold as a line.

    Args:
        distances: (n,) squared L2 by label.
        same: (n,) bool.
        thresholds: by label, squared L2.
        title: of the chart.
    """
    if not distances:
        raise ValueError(f"no distances to draw for {title!r}: give at least one condition")
    places, columns = _side_by_side(distances)
    lines = -(-(places[-1] + 1) // columns)
    end = max(np.ceil(2 * max(values.max() for values in distances.values())), 1) / 2
    bins = np.linspace(0, end, _BINS + 1)
    figure = new_figure(_WIDTH_INCHES, 0.7 + 1.2 * lines)
    for position, name in zip(places, distances, strict=True):
        axes = figure.add_subplot(lines, columns, position + 1)
        for kind, chosen in (("genuine", same), ("impostor", ~same)):
            shares = np.histogram(distances[name][chosen], bins)[0] / max(int(chosen.sum()), 1)
            axes.stairs(100 * shares, bins, fill=True, alpha=0.55, color=KIND_COLOURS[kind], label=kind)
        axes.axvline(thresholds[name], color=INK, linestyle=":", linewidth=1.2, label="threshold")
        axes.set(xlim=(0, end), title=name)
        if position + columns > places[-1]:
            axes.set_xlabel("squared L2 distance")
        if position % columns == 0:
            axes.set_ylabel("pairs (%)")
    _legend_above(figure, [*KIND_COLOURS, "threshold"], title)
    return figure


@styled
def overlay_figure(curves: Mapping[str, Mapping[str, Curve]], title: str, measured_from: float = 0) -> Figure:
    """The ROCs of several runs: a panel for each condition, a colour for each run.

    Args:
        curves: by label of the condition, then by name of the run.
        title: of the chart.
        measured_from: as `roc_figure`.
    """
    places, columns = _side_by_side(curves)
    lines = -(-(places[-1] + 1) // columns)
    figure = new_figure(_WIDTH_INCHES * columns / 2 + 2.4, 0.9 + 2.3 * lines)
    left = _smallest([fmr for runs in curves.values() for fmr, _ in runs.values()])
    names = list(dict.fromkeys(name for runs in curves.values() for name in runs))
    for position, (condition, runs) in zip(places, curves.items(), strict=True):
        axes = figure.add_subplot(lines, columns, position + 1)
        axes.set(xscale="log", xlim=(left, 1), ylim=(0, 100), title=condition)
        axes.xaxis.set_minor_formatter("")
        _shade(axes, left, measured_from)
        for name, (fmr, tmr) in runs.items():
            start, place = _last_of_rate_zero(fmr), names.index(name)
            style = ("-", "--", "-.", ":")[place % 4]  # equal curves stay visible under each other
            x, y = _thinned(axes, np.maximum(fmr[start:], left), 100 * tmr[start:])
            axes.step(x, y, style, where="post", linewidth=1.5, color=f"C{place}", label=name)
        if position + columns > places[-1]:
            axes.set_xlabel("false match rate")
        if position % columns == 0:
            axes.set_ylabel("true match rate (%)")
    _legend_above(figure, [*names, _TOO_FEW], title, columns=2)
    return figure


def _curve_panels(
    curves: Mapping[str, Curve], title: str, ylabel: str
) -> tuple[Figure, list[tuple[Axes, dict[str, Curve]]]]:
    """A figure with a panel for each obfuscation, and the curves by condition that belong in it."""
    if not curves:
        raise ValueError(f"no curves to draw for {title!r}: give at least one")
    kinds: list[str | None] = list(dict.fromkeys(name.partition(", ")[0] for name in curves if ", " in name))
    kinds = kinds or [None]
    columns = min(len(kinds), 2)
    lines = -(-len(kinds) // columns)
    figure = new_figure(_WIDTH_INCHES, 0.9 + 2.0 * lines)
    panels = []
    for position, kind in enumerate(kinds):
        axes = figure.add_subplot(lines, columns, position + 1)
        axes.set_title(kind or "no obfuscation")
        if position >= len(kinds) - columns:
            axes.set_xlabel("false match rate")
        if position % columns == 0:
            axes.set_ylabel(ylabel)
        own = {name: curves[label(kind, name)] for name in CONDITIONS if label(kind, name) in curves}
        panels.append((axes, {name: curve for name, curve in curves.items() if name in CONDITIONS} | own))
    return figure, panels


def _side_by_side(labels: Collection[str]) -> tuple[list[int], int]:
    """The place of each label's panel, counted row by row, and the number of columns.

    The place beside a leading panel without an obfuscation stays empty, so that those of one stand side by side.
    """
    if len(labels) == 1:
        return [0], 1
    alone = sum(name in CONDITIONS for name in labels)
    return [place + alone % 2 * (place >= alone) for place in range(len(labels))], 2


def _shade(axes: Axes, left: float, measured_from: float) -> None:
    """Mark the false match rates that the pairs are too few to measure."""
    if measured_from > left:
        axes.axvspan(left, min(measured_from, 1), color=GRID, alpha=0.6, linewidth=0, zorder=0, label=_TOO_FEW)


def _draw_curve(axes: Axes, condition: str, x: np.ndarray, y: np.ndarray) -> None:
    x, y = _thinned(axes, x, y)
    width = 1.6 if CONDITIONS[condition].needs_obfuscation else 3.6  # a curve that lies upon it leaves it to be seen
    axes.step(x, y, where="post", linewidth=width, label=condition, color=CONDITIONS[condition].colour)


def _thinned(axes: Axes, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The points without those that fall into the same cell of a fine grid as their neighbours on both sides.

    The axes must have their scales and limits.
    """
    cells = np.round(
        axes.transAxes.inverted().transform(axes.transData.transform(np.stack([x, y], axis=1))) * _GRID_CELLS
    )
    moves = np.any(cells[1:] != cells[:-1], axis=1)
    kept = np.append(True, moves) | np.append(moves, True)
    return x[kept], y[kept]


def _smallest(rates: Sequence[np.ndarray]) -> float:
    """The power of ten below every rate above 0: the place of rate 0 on a logarithmic axis."""
    smallest = min((rate[rate > 0].min() for rate in rates if (rate > 0).any()), default=1.0)
    return float(10.0 ** (np.ceil(np.log10(smallest) - 1e-9) - 1))


def _last_of_rate_zero(fmr: np.ndarray) -> int:
    """Index of the best point without a false match; what comes before it is not worth drawing."""
    return max(int(np.searchsorted(fmr, 0, side="right")) - 1, 0)


def _legend_above(figure: Figure, names: Sequence[str], title: str = "", columns: int | None = None) -> None:
    """One legend for all panels, with those of `names` that occur, in that order, under the figure's title."""
    handles = {
        name: handle for axes in figure.axes for handle, name in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    shown = [name for name in names if name in handles]
    figure.legend(
        [handles[name] for name in shown],
        shown,
        title=title or None,
        loc="outside upper center",
        ncols=columns or len(shown),
    )


def _draw_bars(axes: Axes, panel: dict[str | None, dict[str, Row]], bottom: float) -> None:
    """The bars of a dataset: a group for each obfuscation, in it a bar for each condition that occurs."""
    shown = [condition for condition in CONDITIONS if any(condition in by_condition for by_condition in panel.values())]
    width = 0.88 / len(shown)  # a bar is about as wide as the number above it
    for place, condition in enumerate(shown):
        at = [group for group, by_condition in enumerate(panel.values()) if condition in by_condition]
        results = [by_condition[condition].result for by_condition in panel.values() if condition in by_condition]
        centres = np.array(at) + (place - (len(shown) - 1) / 2) * width
        heights = np.array([100 * result.accuracy for result in results])
        deviations = np.array([100 * result.accuracy_std for result in results])
        axes.bar(centres, heights - bottom, 0.92 * width, bottom, color=CONDITIONS[condition].colour, label=condition)
        axes.errorbar(centres, heights, deviations, fmt="none", ecolor=INK, elinewidth=1, capsize=2)
        for centre, top, height in zip(centres, heights + deviations, heights, strict=True):
            axes.annotate(
                f"{height:.1f}", (centre, top), (0, 2), textcoords="offset points", ha="center", va="bottom", fontsize=8
            )
    axes.set_xticks(range(len(panel)), [obfuscation or "no obfuscation" for obfuscation in panel])
    axes.set_xlim(-0.6, len(panel) - 0.4)
    axes.set_ylim(bottom, 105)  # room for the numbers above the bars
    axes.set_yticks(np.arange(bottom, 101, 10))
    axes.grid(axis="x", visible=False)
