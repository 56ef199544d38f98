"""What attacks leave in their folder: results.json, results.csv, results.md, report.html, image_sheet.png."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from torchkit.attack.recording import RecordedFaces
from torchkit.util.files import atomic_write_bytes, atomic_write_text
from validation.measure.attackers import Outcome
from validation.measure.attributes import AttributeProbe
from validation.measure.distillation import Distillation
from validation.measure.excess import METRICS, Excess, Margins
from validation.measure.linkage import Linkage
from validation.measure.reidentification import Gallery
from validation.report import attack_rows
from validation.report.attack_rows import Control
from validation.report.chart import INK, inline_svg, new_figure, styled
from validation.report.html import TEMPLATES, Chart, data_uri, flattened
from validation.report.tables import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHEET = ("O", "O+e", "O+Z")
"""Observations whose reconstructions stand on the image sheet, beside the clear image and what is sent."""
KIND_COLOURS = {"operational": "#d66b0a", "conditional": "#3f78b5"}


@dataclass(frozen=True, eq=False)
class AttackResults:
    """What attacks found."""

    outcomes: Sequence[Outcome]
    linkage: Sequence[Linkage]
    distillations: Sequence[Distillation]
    attributes: Sequence[AttributeProbe]
    gallery: Gallery | None
    held_out: RecordedFaces
    margins: Margins
    examples: int
    config: dict[str, Any]

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        inverted = attack_rows.result_rows(self.outcomes, self.gallery) if self.outcomes else []
        return inverted + attack_rows.distillation_rows(self.distillations) + attack_rows.linkage_rows(self.linkage)

    @cached_property
    def excesses(self) -> list[Excess]:
        return attack_rows.find_excesses(self.outcomes, self.held_out.people)

    @cached_property
    def controls(self) -> list[Control]:
        return attack_rows.find_controls(self.outcomes, self.gallery, self.margins)

    @property
    def verdicts(self) -> list[str]:
        verdicts = attack_rows.verdicts(self.excesses, self.controls, self.margins)
        return [*verdicts, *attack_rows.steep_curves(self.outcomes)]

    def tables(self) -> dict[str, Table]:
        """Those that have lines, by their titles."""
        tables = {
            "What attacks recover": attack_rows.leakage_table(
                [row for row in self.rows if row["attack"] in attack_rows.INVERTED]
            ),
            "Excess over the necessary": attack_rows.excess_table(self.excesses),
            "Controls": attack_rows.controls_table(self.controls),
            "Linkage": attack_rows.linkage_table(self.linkage),
            "Paired distillation": attack_rows.distillation_table(self.distillations),
            "Attributes": attack_rows.attributes_table(self.attributes),
        }
        return {title: table for title, table in tables.items() if table.body}


def write_attack_outputs(out: Path, results: AttackResults) -> list[Path]:
    """Write all files to OUT and return their paths, those for people first."""
    content: dict[str, Any] = {
        "rows": results.rows,
        "excess": attack_rows.as_json(results.excesses),
        "controls": attack_rows.as_json(results.controls),
        "attributes": attack_rows.as_json(results.attributes),
        "config": results.config,
        "learning_curves": [
            {"observation": outcome.observation, "seed": outcome.seed, "points": outcome.curve}
            for outcome in results.outcomes
            if outcome.curve
        ],
        "verdicts": results.verdicts,
        "notes": list(attack_rows.NOTES),
    }
    sheet = image_sheet(results)
    markdown = ["# What attacks recover\n", *(f"- {verdict}\n" for verdict in results.verdicts)]
    markdown += [f"## {title}\n\n{table.markdown()}" for title, table in results.tables().items()]
    markdown += [f"- {note}\n" for note in attack_rows.NOTES]
    texts = {
        "report.html": _page(results, sheet),
        "results.json": json.dumps(content, indent=2, allow_nan=False) + "\n",
        "results.csv": _csv_text(content["rows"]),
        "results.md": "\n".join(markdown),
    }
    for name, text in texts.items():
        atomic_write_text(out / name, text)
    written = [out / name for name in texts]
    if sheet:
        path = out / "image_sheet.png"
        atomic_write_bytes(path, sheet_png([line for _, line in sheet.items()]))
        written.append(path)
    return written


def image_sheet(results: AttackResults) -> dict[str, list[np.ndarray]]:
    """Column -> an image (112, 112, 3) uint8 RGB a person, unseen by all attackers; empty without inversions."""
    if not results.outcomes or not results.examples:
        return {}
    _, first = np.unique(results.held_out.people, return_index=True)
    chosen = first[:: max(1, len(first) // results.examples)][: results.examples]
    columns = {"clear": results.held_out.array("clear"), "sent (O)": results.held_out.array("O")}
    for outcome in reversed(results.outcomes):  # the first seed stays
        if outcome.observation in SHEET:
            columns[f"from {outcome.observation}"] = outcome.reconstructed
    order = ["clear", "sent (O)", *(f"from {name}" for name in SHEET if f"from {name}" in columns)]
    return {name: [np.ascontiguousarray(columns[name][at].transpose(1, 2, 0)) for at in chosen] for name in order}


def sheet_png(columns: Sequence[Sequence[np.ndarray]]) -> bytes:
    """The images of the columns side by side, as a PNG file."""
    whole = np.concatenate([np.concatenate(column) for column in columns], axis=1)
    return cv2.imencode(".png", whole[..., ::-1])[1].tobytes()  # OpenCV takes BGR


@styled
def excess_figure(excesses: Sequence[Excess], margins: Margins) -> Figure:
    """Every excess with its interval, beside the margin below which it counts as none."""
    shown = [(excess, margin) for excess in excesses if (margin := margins.of(excess.metric)) is not None]
    figure = new_figure(4.8, 0.9 + 0.32 * len(shown))
    axes = figure.add_subplot()
    for place, (excess, margin) in enumerate(reversed(shown)):
        colour = KIND_COLOURS[excess.kind]
        axes.plot([excess.low, excess.high], [place, place], color=colour, linewidth=2)
        axes.plot([excess.value], [place], "o", color=colour, markersize=5)
        axes.plot([margin, margin], [place - 0.35, place + 0.35], color=INK, linewidth=1, linestyle=":")
    axes.axvline(0, color=INK, linewidth=1)
    axes.set_yticks(range(len(shown)), [f"{excess.kind}, {excess.metric}" for excess, _ in reversed(shown)])
    axes.set_xlabel("excess over O+e")
    return figure


@styled
def curve_figure(outcomes: Sequence[Outcome]) -> Figure:
    """The learning curves of the first seed: loss on people that the attacker does not learn from."""
    figure = new_figure(4.8, 3.2)
    axes = figure.add_subplot()
    drawn = set()
    for outcome in outcomes:
        if outcome.curve and outcome.observation not in drawn:
            drawn.add(outcome.observation)
            steps, losses = zip(*((point["step"], point["loss"]) for point in outcome.curve), strict=True)
            axes.plot(steps, losses, label=outcome.observation)
    axes.set_xlabel("steps")
    axes.set_ylabel("loss on watched people")
    axes.legend(fontsize=8)
    return figure


def _charts(results: AttackResults) -> list[dict[str, Any]]:
    charts = []
    if results.excesses:
        caption = "Excess with its 95 % interval; dotted: the margin below which it counts as none"
        charts.append(Chart(inline_svg(excess_figure(results.excesses, results.margins), "excess", caption), caption))
    if any(outcome.curve for outcome in results.outcomes):
        caption = "Learning curves of the first seed"
        charts.append(Chart(inline_svg(curve_figure(results.outcomes), "curves", caption), caption))
    return [{"svg": Markup(chart.svg), "caption": chart.caption} for chart in charts]


def _page(results: AttackResults, sheet: dict[str, list[np.ndarray]]) -> str:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    config = results.config
    return environment.get_template("attack.html.jinja").render(
        title="PRO-Face C: what attacks recover",
        subtitle=f"Client {config['client']}, recogniser {config['recogniser']}, budget {config['budget']}",
        verdicts=results.verdicts,
        sheet_columns=list(sheet),
        sheet=[[data_uri(image) for image in line] for line in zip(*sheet.values(), strict=True)],
        charts=_charts(results),
        tables=results.tables(),
        notes=attack_rows.NOTES,
        configuration=list(flattened(config)),
    )


def _csv_text(rows: Sequence[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(
        text, ["attack", "observation", "seed", *METRICS], lineterminator="\n", extrasaction="ignore"
    )
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
