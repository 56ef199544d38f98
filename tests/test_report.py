"""The table, the files and the charts of a validation."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from dataclasses import asdict, fields
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from validation import report
from validation.report import Row, draw_accuracy, draw_roc, format_table, write_results
from validation.verification import Verification


def make_row(dataset: str, obfuscation: str | None, condition: str, accuracy: float, **changes: Any) -> Row:
    values: dict[str, Any] = {
        "accuracy_std": 0.01,
        "threshold": 1.25,
        "auc": 0.97,
        "eer": 0.04,
        "tar_at_far": {"1e-1": 0.99, "1e-2": 0.875, "1e-3": None},
        "images": 7701,
        "pairs": 6000,
    }
    return Row(dataset, obfuscation, condition, accuracy, **(values | changes))


ROWS = [
    make_row("lfw", None, "clear", 0.9975, accuracy_std=0.0025),
    make_row("lfw", "gaussian", "obfuscated", 0.80),
    make_row("lfw", "gaussian", "compensated", 0.95, payload_bytes=14251.5),
    make_row("lfw", "hybrid", "obfuscated", 0.70),
    make_row("lfw", "hybrid", "compensated", 0.60),
    make_row("cplfw", None, "clear", 0.90),
    make_row("cplfw", "gaussian", "obfuscated", 0.90),
    make_row("cplfw", "gaussian", "compensated", 0.92),
    make_row("calfw", None, "clear", 0.95),
]


def cells(rows: list[Row]) -> list[list[str]]:
    """The table's body: what stands under each piece of the rule, which must be all there is."""
    lines = format_table(rows).splitlines()
    ends = np.cumsum([len(dashes) + 2 for dashes in lines[1].split("  ")])
    starts = [0, *ends[:-1]]
    for line in lines:
        assert all(line[end - 2 : end].strip() == "" for end in ends)
    return [[line[start:end].strip() for start, end in zip(starts, ends, strict=True)] for line in lines[2:]]


def test_table_says_accuracies_and_recovery_in_per_cent() -> None:
    recovery = 100 * (0.95 - 0.80) / (0.9975 - 0.80)
    loss = 100 * (0.60 - 0.70) / (0.9975 - 0.70)
    clear = "99.75 +/- 0.25"
    assert cells(ROWS) == [
        ["lfw", "gaussian", clear, "80.00 +/- 1.00", "95.00 +/- 1.00", f"{recovery:.1f}"],
        ["lfw", "hybrid", clear, "70.00 +/- 1.00", "60.00 +/- 1.00", f"{loss:.1f}"],
        ["cplfw", "gaussian", "90.00 +/- 1.00", "90.00 +/- 1.00", "92.00 +/- 1.00", "-"],
        ["calfw", "-", "95.00 +/- 1.00", "-", "-", "-"],
    ]


def test_table_is_aligned_ascii_with_named_columns() -> None:
    lines = format_table(ROWS).splitlines()
    assert lines[0].split("  ")[0] == "dataset"
    assert [word for word in lines[0].split() if word != "%"] == [
        "dataset",
        "obfuscation",
        "clear",
        "obfuscated",
        "compensated",
        "recovery",
    ]
    assert len({len(line) for line in lines}) == 1
    assert format_table(ROWS).isascii()
    assert format_table(ROWS).endswith("\n")


def test_table_of_parts_shows_dashes() -> None:
    assert cells(ROWS[1:2]) == [["lfw", "gaussian", "-", "80.00 +/- 1.00", "-", "-"]]
    assert cells(ROWS[:2])[0][2:] == ["99.75 +/- 0.25", "80.00 +/- 1.00", "-", "-"]
    assert cells([]) == []


def test_clear_row_of_an_obfuscation_stays_with_it() -> None:
    rows = [
        make_row("lfw", None, "clear", 0.99),
        make_row("lfw", "median", "clear", 0.98),
        make_row("lfw", "median", "obfuscated", 0.5),
        make_row("lfw", "hybrid", "obfuscated", 0.5),
    ]
    assert [line[2] for line in cells(rows)] == ["98.00 +/- 1.00", "99.00 +/- 1.00"]


rates = st.floats(0, 1)


@given(rates, rates, rates)
def test_recovery_is_the_share_of_the_loss(clear: float, obfuscated: float, compensated: float) -> None:
    rows = [
        make_row("lfw", None, "clear", clear),
        make_row("lfw", "median", "obfuscated", obfuscated),
        make_row("lfw", "median", "compensated", compensated),
    ]
    shown = cells(rows)[0][-1]
    if clear <= obfuscated:
        assert shown == "-"
    else:
        expected = 100 * (compensated - obfuscated) / (clear - obfuscated)
        assert float(shown) == pytest.approx(expected, abs=0.0501)


def test_two_rows_for_one_place_are_refused() -> None:
    with pytest.raises(ValueError, match="two rows for lfw, gaussian, obfuscated"):
        format_table([*ROWS, ROWS[1]])


def test_row_checks_its_condition() -> None:
    with pytest.raises(ValueError, match="condition 'blurred', expected one of clear, obfuscated, compensated"):
        make_row("lfw", "median", "blurred", 0.9)
    with pytest.raises(ValueError, match="'compensated' without an obfuscation"):
        make_row("lfw", None, "compensated", 0.9)


def test_row_takes_every_field_of_a_verification() -> None:
    assert {field.name for field in fields(Verification)} <= {field.name for field in fields(Row)}


def test_json_holds_rows_as_rates_and_the_config(tmp_path: Path) -> None:
    path = write_results(tmp_path / "out", ROWS, {"root": Path("a") / "b", "sets": ("lfw",), "batch": 64})
    assert path == tmp_path / "out" / "results.json"
    content = json.loads(path.read_text())
    assert content["config"] == {"root": str(Path("a") / "b"), "sets": ["lfw"], "batch": 64}
    assert content["rows"] == [asdict(row) for row in ROWS]
    assert content["rows"][0]["accuracy"] == 0.9975
    assert content["rows"][0]["payload_bytes"] is None
    assert sorted(file.name for file in path.parent.iterdir()) == ["results.csv", "results.json"]


def test_csv_holds_the_same_numbers(tmp_path: Path) -> None:
    write_results(tmp_path, ROWS, {})
    with (tmp_path / "results.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == len(ROWS)
    for line, row in zip(lines, ROWS, strict=True):
        flat = asdict(row)
        flat |= {f"tar_at_far_{far}": rate for far, rate in flat.pop("tar_at_far").items()}
        assert line == {name: "" if value is None else str(value) for name, value in flat.items()}


def test_results_are_replaced_or_left_as_they_were(tmp_path: Path) -> None:
    write_results(tmp_path, ROWS, {"run": 1})
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    with pytest.raises(ValueError, match="JSON"):
        write_results(tmp_path, [make_row("lfw", None, "clear", float("nan"))], {})
    with pytest.raises(TypeError, match="of type set"):
        write_results(tmp_path, ROWS[:1], {"sets": {"lfw"}})
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before
    write_results(tmp_path, ROWS[:1], {"run": 2})
    assert len(json.loads((tmp_path / "results.json").read_text())["rows"]) == 1


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The figures that were saved."""
    saved: list[Any] = []
    real_save = report._save

    def save(figure: Any, path: Path) -> Path:
        saved.append(figure)
        return real_save(figure, path)

    monkeypatch.setattr(report, "_save", save)
    return saved


def test_bars_show_the_accuracies(tmp_path: Path, figures: list[Any]) -> None:
    path = draw_accuracy(tmp_path / "out", ROWS)
    assert path == tmp_path / "out" / "accuracy.png"
    picture = cv2.imread(str(path))
    assert picture is not None
    assert len(np.unique(picture)) > 10
    (figure,) = figures
    assert [axes.get_title() for axes in figure.axes] == ["lfw", "cplfw", "calfw"]
    panel = figure.axes[0]
    assert [label.get_text() for label in panel.get_xticklabels()] == ["gaussian", "hybrid"]
    tops = {bars.get_label(): [bar.get_y() + bar.get_height() for bar in bars] for bars in panel.containers[::2]}
    assert tops["clear"] == pytest.approx([99.75, 99.75])
    assert tops["obfuscated"] == pytest.approx([80, 70])
    assert tops["compensated"] == pytest.approx([95, 60])
    assert panel.get_ylim()[0] == 50
    assert [text.get_text() for text in figure.legends[0].get_texts()] == list(report.CONDITIONS)


def test_bars_of_a_group_stand_side_by_side(tmp_path: Path, figures: list[Any]) -> None:
    draw_accuracy(tmp_path, ROWS)
    bars = sorted((bar.get_x(), bar.get_x() + bar.get_width()) for bar in figures[0].axes[0].patches)
    assert len(bars) == 6
    assert all(end <= start for (_, end), (start, _) in pairwise(bars))
    assert all(start > -0.5 and end < 0.5 for start, end in bars[:3])
    assert all(start > 0.5 and end < 1.5 for start, end in bars[3:])


def test_axis_goes_below_chance_only_for_a_bar_that_does(tmp_path: Path, figures: list[Any]) -> None:
    draw_accuracy(tmp_path, [make_row("lfw", None, "clear", 0.38, accuracy_std=0.0)])
    draw_accuracy(tmp_path, [make_row("lfw", None, "clear", 0.01, accuracy_std=0.1)])
    assert [figure.axes[0].get_ylim()[0] for figure in figures] == [30, 0]


def test_legend_names_only_what_is_drawn(tmp_path: Path, figures: list[Any]) -> None:
    draw_accuracy(tmp_path, ROWS[-1:])
    assert [text.get_text() for text in figures[0].legends[0].get_texts()] == ["clear"]


def test_nothing_to_draw_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no rows"):
        draw_accuracy(tmp_path, [])
    with pytest.raises(ValueError, match="no curves to draw for 'lfw'"):
        draw_roc(tmp_path, {}, "lfw")
    assert list(tmp_path.iterdir()) == []


def test_roc_is_drawn_from_rate_zero_on_a_logarithmic_axis(tmp_path: Path, figures: list[Any]) -> None:
    fmr = np.array([0, 0, 0, 0.003, 0.003, 0.5, 1])
    tmr = np.array([0, 0.2, 0.4, 0.4, 0.7, 0.7, 1])
    path = draw_roc(tmp_path, {"clear": (fmr, tmr), "other": (np.array([0.0, 1]), np.array([1.0, 1]))}, "lfw / a")
    assert path == tmp_path / "roc_lfw_a.png"
    assert cv2.imread(str(path)) is not None
    axes = figures[0].axes[0]
    assert axes.get_title() == "lfw / a"
    assert axes.get_xscale() == "log"
    assert axes.get_xlim() == pytest.approx((1e-3, 1))
    assert axes.get_ylim() == (0, 100)
    clear, other, chance = axes.get_lines()
    assert [line.get_label() for line in axes.get_lines()] == ["clear", "other", "chance"]
    assert clear.get_drawstyle() == "steps-post"
    np.testing.assert_allclose(clear.get_xdata(), [1e-3, 0.003, 0.003, 0.5, 1])
    np.testing.assert_allclose(clear.get_ydata(), [40, 40, 70, 70, 100])
    np.testing.assert_allclose(other.get_xydata(), np.array([[1e-3, 100], [1, 100]]))
    np.testing.assert_allclose(chance.get_ydata(), 100 * chance.get_xdata())


def test_reports_need_no_matplotlib_before_they_draw() -> None:
    command = "import sys, validation.report; sys.exit('matplotlib' in sys.modules)"
    root = Path(report.__file__).parents[1]
    assert subprocess.run([sys.executable, "-c", command], cwd=root, check=False).returncode == 0
