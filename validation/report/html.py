"""Write report.html: the results, the charts and a few faces on one self-contained page.

The page has no script and loads nothing: images are data URIs, charts inline SVG, and its own content security
policy refuses the rest.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from torchkit.util.files import atomic_write_text
from validation.measure.conditions import CONDITIONS
from validation.protocol.figures import shown_figures
from validation.report.examples import Example
from validation.report.rows import (
    EXTRAS,
    Row,
    condition_costs,
    conditions_of,
    group_rows,
    per_cent,
    recovery,
    show_extra,
)

TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Chart:
    """A chart as `inline_svg` returns it, trusted as it is, and what stands below it."""

    svg: str
    caption: str


@dataclass(frozen=True)
class Section:
    """The charts and faces of a validation set on the page."""

    dataset: str
    charts: Sequence[Chart]
    examples: Sequence[Example] = ()


def write_html(
    out_dir: Path, rows: Sequence[Row], sections: Sequence[Section], config: dict[str, Any], notes: Sequence[str]
) -> Path:
    """Write OUT/report.html and return its path.

    Args:
        out_dir: folder of the results.
        rows: as in results.json; each belongs to one of the sections.
        sections: a part of the page each.
        config: as in results.json.
        notes: below the tables.
    """
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    path = Path(out_dir) / "report.html"
    text = environment.get_template("report.html.jinja").render(
        title="PRO-Face C: verification",
        subtitle=_subtitle(config),
        conditions=[CONDITIONS[name] for name in conditions_of(rows)],
        sections=[_section(section, rows) for section in sections],
        figures=shown_figures(),
        extras=[extra for extra in EXTRAS.values() if extra.title],
        costs=condition_costs(rows),
        notes=notes,
        configuration=list(flattened(config)),
        per_cent=per_cent,
        show_extra=show_extra,
        footer="results.json holds the same numbers with all their digits.",
    )
    atomic_write_text(path, text)
    return path


def flattened(value: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """(dotted key, text) of every value in nested dictionaries."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from flattened(inner, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(value, list | tuple):
        yield prefix, " ".join(map(str, value))
    else:
        yield prefix, str(value)


def data_uri(image: np.ndarray | None) -> str | None:
    """An image, (H, W, 3) RGB or (H, W) grey uint8, as a PNG in a data URI; None stays None."""
    if image is None:
        return None
    encoded = cv2.imencode(".png", image[..., ::-1] if image.ndim == 3 else image)[1]  # OpenCV takes BGR
    return "data:image/png;base64," + base64.b64encode(encoded.tobytes()).decode("ascii")


def _subtitle(config: dict[str, Any]) -> str:
    recogniser = config.get("recogniser", {}).get("name", "unknown")
    flip = ", image and mirror image fused" if config.get("flip") else ""
    return f"Client {config.get('backbone_resume', 'unknown')}, recogniser {recogniser}{flip}"


def _section(section: Section, rows: Sequence[Row]) -> dict[str, Any]:
    own = [(number, row) for number, row in enumerate(rows) if row.dataset == section.dataset]
    summary = [
        {
            "obfuscation": obfuscation,
            "recovery": recovery(by_condition),
            "cells": [by_condition.get(name) for name in conditions_of(rows)],
        }
        for (_, obfuscation), by_condition in group_rows(row for _, row in own).items()
    ]
    return {
        "dataset": section.dataset,
        "rows": own,
        "summary": summary,
        "published": next((row.reference_accuracy for _, row in own if row.reference_accuracy is not None), None),
        "charts": [{"svg": Markup(chart.svg), "caption": chart.caption} for chart in section.charts],
        "examples": [_images(example) for example in section.examples],
    }


def _images(example: Example) -> dict[str, Any]:
    names = ("obfuscated", "residual", "features", "shuffled")
    kinds = [
        {"obfuscation": kind.obfuscation, **{name: data_uri(getattr(kind, name)) for name in names}}
        for kind in example.kinds
    ]
    return {"clear": data_uri(example.clear), "kinds": kinds}
