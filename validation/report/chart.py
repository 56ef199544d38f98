"""The style of all charts, and their output as PNG files and parts of a page."""

from __future__ import annotations

import functools
import html
import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from torchkit.util.files import atomic_write_bytes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, GRID = "#1f2328", "#d9dee3"
_STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.size": 10,  # a chart is as wide as a phone: about as many pixels there
    "axes.titlesize": 10.5,
    "legend.columnspacing": 1.1,
    "legend.handlelength": 1.4,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "svg.fonttype": "none",  # text stays text: it can be read aloud, and takes the page's font
}
_DPI = 200

P = ParamSpec("P")
T = TypeVar("T")


def styled(function: Callable[P, T]) -> Callable[P, T]:
    """Run with the charts' style, which is matplotlib's global state, and put that back."""

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        from matplotlib import rc_context

        with rc_context(_STYLE):
            return function(*args, **kwargs)

    return run


def new_figure(width_inches: float, height_inches: float) -> Figure:
    """A figure outside pyplot: nothing global, no display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width_inches, height_inches), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


@styled
def save_png(figure: Figure, path: Path) -> Path:
    """Write the chart, whole or not at all, and return its path."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI)
    atomic_write_bytes(path, buffer.getvalue())
    return path


@styled
def inline_svg(figure: Figure, name: str, description: str) -> str:
    """The chart as an <svg> element for a page, in the page's colours (CSS variables --ink and --grid).

    Args:
        figure: the chart.
        name: letters, digits, "-" and "_"; keeps the ids of several charts on one page apart.
        description: what a screen reader says.
    """
    from matplotlib import rcParams

    rcParams["svg.hashsalt"] = name  # the same chart gives the same bytes
    buffer = io.StringIO()
    metadata: dict[str, Any] = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(buffer, format="svg", transparent=True, metadata=metadata)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<(metadata|style)\b.*?</\1>|<!--.*?-->", "", text, flags=re.DOTALL)  # its style reaches everything
    text = re.sub(r"(\d\.\d\d)\d+", r"\1", text)  # a hundredth of a point
    text = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", text)  # a page has them built in
    text = re.sub(r'(\sid="|href="#|url\(#)', rf"\g<1>{name}-", text)
    text = text.replace(INK, "var(--ink)").replace(GRID, "var(--grid)")
    spoken = html.escape(description)
    view_box = re.search(r'viewBox="[^"]*"', text)
    assert view_box is not None
    return f'<svg role="img" aria-label="{spoken}" {view_box[0]}>' + text[text.index(">") + 1 :]


def file_name(title: str) -> str:
    """A title as part of a file's name: its letters, digits, "-" and "_"."""
    return re.sub(r"[^A-Za-z0-9_-]+", "_", title).strip("_")
