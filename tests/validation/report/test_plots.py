"""The charts of a validation: what is drawn where, and how a chart becomes part of a page."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from test_rows import ROWS, make_row

from validation.measure.conditions import DEFAULT_CONDITIONS
from validation.report.chart import GRID, INK, file_name, inline_svg, save_png
from validation.report.plots import accuracy_figure, det_figure, histogram_figure, overlay_figure, roc_figure

STEPS = np.array([0, 0, 0, 0.003, 0.003, 0.5, 1]), np.array([0, 0.2, 0.4, 0.4, 0.7, 0.7, 1])
CORNER = np.array([0.0, 1]), np.array([1.0, 1])


def legend_of(figure: Any) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def lines_of(axes: Any) -> dict[str, np.ndarray]:
    """The points (k, 2) of each line, by its label."""
    return {line.get_label(): line.get_xydata() for line in axes.get_lines()}


def test_bars_show_the_accuracies() -> None:
    figure = accuracy_figure(ROWS)
    assert [axes.get_title() for axes in figure.axes] == ["lfw", "cplfw", "calfw"]
    panel = figure.axes[0]
    assert [label.get_text() for label in panel.get_xticklabels()] == ["gaussian", "hybrid"]
    tops = {bars.get_label(): [bar.get_y() + bar.get_height() for bar in bars] for bars in panel.containers[::2]}
    assert tops["clear"] == pytest.approx([99.75, 99.75])
    assert tops["obfuscated"] == pytest.approx([80, 70])
    assert tops["compensated"] == pytest.approx([95, 60])
    assert panel.get_ylim()[0] == 50
    assert legend_of(figure) == list(DEFAULT_CONDITIONS)


def test_bars_of_a_group_stand_side_by_side() -> None:
    bars = sorted((bar.get_x(), bar.get_x() + bar.get_width()) for bar in accuracy_figure(ROWS).axes[0].patches)
    assert len(bars) == 6
    assert all(end <= start for (_, end), (start, _) in pairwise(bars))
    assert all(start > -0.5 and end < 0.5 for start, end in bars[:3])
    assert all(start > 0.5 and end < 1.5 for start, end in bars[3:])


def test_axis_goes_below_chance_only_for_a_bar_that_does() -> None:
    low = accuracy_figure([make_row("lfw", None, "clear", 0.38, accuracy_std=0.0)])
    lower = accuracy_figure([make_row("lfw", None, "clear", 0.01, accuracy_std=0.1)])
    assert [figure.axes[0].get_ylim()[0] for figure in (low, lower)] == [30, 0]


def test_legend_names_only_what_is_drawn() -> None:
    assert legend_of(accuracy_figure(ROWS[-1:])) == ["clear"]
    assert legend_of(roc_figure({"clear": STEPS}, "a")) == ["clear", "chance"]


def test_nothing_to_draw_is_an_error() -> None:
    with pytest.raises(ValueError, match="no rows"):
        accuracy_figure([])
    for draw in (roc_figure, det_figure):
        with pytest.raises(ValueError, match="no curves to draw for 'lfw'"):
            draw({}, "lfw")
    with pytest.raises(ValueError, match="no distances to draw for 'lfw'"):
        histogram_figure({}, np.array([True]), {}, "lfw")


def test_roc_is_drawn_from_rate_zero_on_a_logarithmic_axis() -> None:
    (axes,) = roc_figure({"clear": STEPS}, "lfw").axes
    assert axes.get_xscale() == "log"
    assert axes.get_xlim() == pytest.approx((1e-3, 1))
    assert axes.get_ylim() == (0, 100)
    lines = lines_of(axes)
    assert list(lines) == ["clear", "chance"]
    assert axes.get_lines()[0].get_drawstyle() == "steps-post"
    np.testing.assert_allclose(lines["clear"], np.array([[1e-3, 40], [0.003, 40], [0.003, 70], [0.5, 70], [1, 100]]))
    np.testing.assert_allclose(lines["chance"][:, 1], 100 * lines["chance"][:, 0])


def test_each_obfuscation_has_a_panel_with_the_clear_curve() -> None:
    curves = {
        "clear": STEPS,
        "gaussian, obfuscated": CORNER,
        "gaussian, compensated": STEPS,
        "hybrid, obfuscated": CORNER,
    }
    for draw, extra in ((roc_figure, "chance"), (det_figure, "equal error")):
        figure = draw(curves, "lfw")
        assert [axes.get_title() for axes in figure.axes] == ["gaussian", "hybrid"]
        assert list(lines_of(figure.axes[0])) == ["clear", "obfuscated", "compensated", extra]
        assert list(lines_of(figure.axes[1])) == ["clear", "obfuscated", extra]
        assert legend_of(figure) == [*DEFAULT_CONDITIONS, extra]
        assert figure.legends[0].get_title().get_text() == "lfw"


def test_det_shows_both_error_rates() -> None:
    (axes,) = det_figure({"clear": STEPS}, "lfw").axes
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    assert axes.get_ylim() == pytest.approx((0.1, 1))  # the smallest false non-match rate above 0 is 0.3
    expected = np.array([[1e-3, 0.6], [0.003, 0.6], [0.003, 0.3], [0.5, 0.3], [1, 0.1]])
    np.testing.assert_allclose(lines_of(axes)["clear"], expected)


def test_legends_fit_into_their_figures() -> None:
    curves = {"clear": STEPS, "gaussian, obfuscated": CORNER, "gaussian, compensated": STEPS}
    distances = dict.fromkeys(curves, np.array([0.5, 1.5]))
    figures = [
        accuracy_figure(ROWS),
        roc_figure(curves, "lfw", 0.02),
        det_figure(curves, "lfw", 0.02),
        histogram_figure(distances, np.array([True, False]), dict.fromkeys(curves, 1.0), "lfw"),
        overlay_figure({"clear": {"a first run": STEPS, "another run": CORNER}}, "lfw", 0.02),
    ]
    for figure in figures:
        figure.canvas.draw()
        legend = figure.legends[0].get_window_extent()
        assert legend.x0 >= 0, figure
        assert legend.x1 <= figure.bbox.width, figure


def test_rates_that_are_not_measured_are_shaded() -> None:
    """0.02 is what 1,500 impostor pairs measure: 30 false matches."""
    overlay = {"clear": {"a": STEPS}}
    for draw, curves in ((roc_figure, {"clear": STEPS}), (det_figure, {"clear": STEPS}), (overlay_figure, overlay)):
        figure = draw(curves, "lfw", 0.02)
        (shade,) = figure.axes[0].patches
        assert (shade.get_x(), shade.get_x() + shade.get_width()) == pytest.approx((1e-3, 0.02))
        assert legend_of(figure)[-1] == "< 30 false matches"
        assert draw(curves, "lfw", 5.0).axes[0].patches[0].get_x() == pytest.approx(1e-3)  # to the end of the axis
        assert not draw(curves, "lfw", 1e-4).axes[0].patches  # all of it is measured


def test_thinned_curve_stays_where_it_was() -> None:
    rng = np.random.default_rng(0)
    fmr = np.sort(rng.integers(0, 3001, 20_000)) / 3000
    tmr = np.sort(rng.random(20_000))
    (axes,) = roc_figure({"clear": (fmr, tmr)}, "lfw").axes
    x, y = lines_of(axes)["clear"].T
    assert len(x) < 5_000
    drawn = y[np.searchsorted(x, fmr[fmr >= x[0]], side="right") - 1]
    assert np.abs(drawn - 100 * tmr[fmr >= x[0]]).max() < 1.5  # per cent of the axis; a cell is 0.25


def test_histograms_show_shares_of_each_kind() -> None:
    same = np.array([True] * 4 + [False] * 2)
    distances = {
        "clear": np.array([0.1, 0.1, 0.1, 0.9, 1.6, 1.9]),
        "hybrid, obfuscated": np.full(6, 0.5),
        "hybrid, compensated": np.full(6, 0.5),
    }
    thresholds = {"clear": 1.0, "hybrid, obfuscated": 0.4, "hybrid, compensated": 0.3}
    figure = histogram_figure(distances, same, thresholds, "a")
    assert [axes.get_title() for axes in figure.axes] == list(distances)
    for axes, distance in zip(figure.axes, distances.values(), strict=True):
        for patch, kind in zip(axes.patches, (same, ~same), strict=True):
            shares, edges, _ = patch.get_data()
            assert edges[-1] == 2.0  # the largest distance, up to the next half
            for left, right, share in zip(edges, edges[1:], shares, strict=False):
                assert share == pytest.approx(100 * np.mean((distance[kind] >= left) & (distance[kind] < right)))
    assert [lines_of(axes)["threshold"][0, 0] for axes in figure.axes] == list(thresholds.values())
    boxes = [axes.get_position() for axes in figure.axes]
    assert boxes[1].y0 == boxes[2].y0 < boxes[0].y0  # obfuscated and compensated side by side, clear above


def test_overlay_draws_every_run_in_the_condition_it_has() -> None:
    figure = overlay_figure({"clear": {"a": STEPS, "b": CORNER}, "hybrid, obfuscated": {"b": STEPS}}, "lfw")
    assert [(axes.get_title(), list(lines_of(axes))) for axes in figure.axes] == [
        ("clear", ["a", "b"]),
        ("hybrid, obfuscated", ["b"]),
    ]
    colours = [[line.get_color() for line in axes.get_lines()] for axes in figure.axes]
    assert colours[0][1] == colours[1][0] != colours[0][0]  # a run keeps its colour


def test_png_is_a_image(tmp_path: Path) -> None:
    path = save_png(roc_figure({"clear": STEPS}, "lfw"), tmp_path / "out" / "roc.png")
    image = cv2.imread(str(path))
    assert image is not None
    assert len(np.unique(image)) > 10


class Ids(HTMLParser):
    """The ids of a page and what refers to them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.uses: set[str] = set(re.findall(r"url\(#([^)]*)\)", text))
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.ids += [found["id"] or ""] if "id" in found else []
        self.uses |= {(found["xlink:href"] or "")[1:]} if "xlink:href" in found else set()


def test_svg_takes_the_pages_colours_and_shares_no_id() -> None:
    from matplotlib import rcParams

    style = dict(rcParams)
    first = inline_svg(roc_figure({"clear": STEPS}, "lfw"), "roc-a", 'the "ROC" <of> a\\1')
    second = inline_svg(roc_figure({"clear": STEPS}, "lfw"), "roc-b", "b")
    assert first.startswith('<svg role="img" aria-label="the &quot;ROC&quot; &lt;of&gt; a\\1" viewBox="0 0 ')
    assert first.rstrip().endswith("</svg>")
    for text in (first, second):
        assert "var(--ink)" in text
        assert "var(--grid)" in text
        assert INK not in text
        assert GRID not in text
        assert "http" not in text
        assert "<style" not in text
    found = Ids(first + second)
    assert len(set(found.ids)) == len(found.ids)
    assert found.uses
    assert found.uses <= set(found.ids)
    assert dict(rcParams) == style  # matplotlib's own is left as it was


def test_file_name_keeps_what_every_system_allows() -> None:
    assert file_name("lfw / a") == "lfw_a"
    assert file_name("cfp-fp_2") == "cfp-fp_2"
