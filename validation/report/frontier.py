"""The frontier as rows, a table and a chart: accuracy, leakage, bytes, and the client's work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from validation.report.chart import new_figure, save_png, styled
from validation.report.tables import Table

CLIENT_ALONE = "client_alone"
EMBEDDINGS = {"embedding_1_bit": "embedding only, 1 bit", "embedding_2_bit": "embedding only, 2 bits"}
COMPENSATED = "compensated"
REIDENTIFICATION = "tar_fmr_1e-2"
"""Metric: share of reconstructions that match other images of the person, at a false match rate of 1 %."""
EMBEDDING_EXCESS = 0.0
"""Excess of an embedding without features, which is the reference."""


@dataclass(frozen=True)
class FrontierRow:
    """A way to let a server recognise a face."""

    name: str
    accuracy: float
    accuracy_interval: tuple[float, float] | None
    client_alone: float | None
    """Accuracy of the best linear map from the client's features to the server's embedding, without the server."""
    payload_bytes: float | None
    client_macs: float
    """Multiply-adds of one face."""
    server_macs: float
    excess_ssim: float | None = None
    """What the features add to an attack that has obfuscated image and embedding; None: not attacked."""
    excess_reidentification: float | None = None


def rows_of(name: str, results: Mapping[str, Any], attack: Mapping[str, Any] | None) -> list[FrontierRow]:
    """The rows that a client's results.json (and that of the attacks on it) give: the client itself, what it could do
    alone, and embeddings without features where they were measured."""
    conditions = {row["condition"]: row for row in results["rows"]}
    alone = conditions.get(CLIENT_ALONE)
    excess = operational_excess(attack)
    client = _row(name, conditions[COMPENSATED], alone["accuracy"] if alone else None, **excess)
    rows = [client]
    if alone is not None:
        rows.append(_row(f"{name} alone", alone))
    return rows + [
        _row(title, conditions[condition], excess_ssim=EMBEDDING_EXCESS, excess_reidentification=EMBEDDING_EXCESS)
        for condition, title in EMBEDDINGS.items()
        if condition in conditions
    ]


def operational_excess(attack: Mapping[str, Any] | None) -> dict[str, float]:
    """Of SSIM and of re-identification, from the results.json of attacks; empty for None."""
    excess_rows = (
        {} if attack is None else {row["metric"]: row for row in attack["excess"] if row["kind"] == "operational"}
    )
    names = {"ssim": "excess_ssim", REIDENTIFICATION: "excess_reidentification"}
    return {name: excess_rows[metric]["value"] for metric, name in names.items() if metric in excess_rows}


def _row(name: str, row: Mapping[str, Any], client_alone: float | None = None, **excess: float) -> FrontierRow:
    interval = row.get("accuracy_interval")
    return FrontierRow(
        name,
        row["accuracy"],
        (interval[0], interval[1]) if interval else None,
        client_alone,
        row.get("payload_bytes"),
        row["client_macs"],
        row["server_macs"],
        **excess,
    )


def frontier_table(rows: Sequence[FrontierRow], clear: float) -> Table:
    """Make the table; the clear images' accuracy is in the first line."""
    columns = [
        "",
        "accuracy %",
        "client alone %",
        "bytes",
        "client MMAC",
        "server MMAC",
        "excess SSIM",
        "excess re-id. %",
    ]
    body = [["clear images", f"{100 * clear:.2f}", *["-"] * 6]]
    for row in rows:
        body.append(
            [
                row.name,
                f"{100 * row.accuracy:.2f}",
                _shown(row.client_alone, 100, ".2f"),
                _shown(row.payload_bytes, 1, ",.0f"),
                f"{row.client_macs / 1e6:,.1f}",
                f"{row.server_macs / 1e6:,.1f}",
                _shown(row.excess_ssim, 1, "+.3f"),
                _shown(row.excess_reidentification, 100, "+.1f"),
            ]
        )
    return Table(columns, body, text_columns=1)


def _shown(value: float | None, factor: float, form: str) -> str:
    return "-" if value is None else format(factor * value, form)


BUBBLE_POINTS = 0.08
"""Area of a bubble in square points for each byte."""


@styled
def draw_frontier(rows: Sequence[FrontierRow], clear: float, out: Path) -> Path:
    """Accuracy over leakage; the area of a bubble shows the bytes of a message, its colour the client's work.

    Ways whose leakage was not measured stand in a strip on the right; those that send nothing have the least bubble.
    """
    from matplotlib.colors import LogNorm

    figure = new_figure(9, 5.5)
    axes, strip = figure.subplots(1, 2, sharey=True, width_ratios=[3, 1])
    shared = {"cmap": "viridis_r", "norm": LogNorm(1, 300), "alpha": 0.75, "edgecolors": "white", "zorder": 3}
    for panel, chosen in ((axes, [row for row in rows if row.excess_ssim is not None]),
                          (strip, [row for row in rows if row.excess_ssim is None])):  # fmt: skip
        x = [row.excess_ssim if row.excess_ssim is not None else 0 for row in chosen]
        y = [100 * row.accuracy for row in chosen]
        area = [40 + BUBBLE_POINTS * min(row.payload_bytes or 0, 20_000) for row in chosen]
        colour = [max(row.client_macs / 1e6, 1) for row in chosen]
        bubbles = panel.scatter(x, y, s=area, c=colour, **shared)
        for place, row in zip(zip(x, y, strict=True), chosen, strict=True):
            panel.annotate(_label(row), place, xytext=(8, 4), textcoords="offset points", fontsize=7.5)
        panel.axhline(100 * clear, linewidth=0.8, linestyle=":")
        panel.margins(x=0.25, y=0.15)
    axes.set(xlabel="leakage: operational excess, SSIM", ylabel="accuracy, %", title="accuracy over leakage")
    strip.set(xticks=[], title="leakage not measured")
    figure.colorbar(bubbles, ax=strip, label="multiply-adds of the client, millions")
    return save_png(figure, out)


def _label(row: FrontierRow) -> str:
    return row.name if row.payload_bytes is None else f"{row.name}, {row.payload_bytes / 1000:.1f} kB"
