"""The tables and the files of a validation."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from validation.protocol.figures import REPORTED_FARS
from validation.protocol.intervals import Intervals
from validation.protocol.verification import Verification
from validation.report import rows as report
from validation.report.rows import Row, condition_costs, notes_on, rates_table, summary_table, write_results
from validation.report.tables import Table

REASON = "3000 impostor pairs, 30000 needed"
RATES = Verification(
    {
        "accuracy": 0.0, "accuracy_std": 0.01, "auc": 0.97, "eer": 0.04, "tar_at_far_1e-1": 0.99,
        "tar_at_far_1e-2": 0.875, "tar_at_far_1e-3": None, "threshold": 1.25,
    },
    {"tar_at_far_1e-3": REASON},
)  # fmt: skip
INTERVALS: Intervals = {
    "accuracy": (0.94, 0.96), "auc": (0.9625, 0.975), "eer": (0.03, 0.05), "tar_at_far_1e-1": (0.98, 1.0),
    "tar_at_far_1e-2": (0.8, 0.9),
}  # fmt: skip


def make_row(
    dataset: str, obfuscation: str | None, condition: str, accuracy: float, accuracy_std: float = 0.01, **changes: Any
) -> Row:
    result = replace(RATES, values=RATES.values | {"accuracy": accuracy, "accuracy_std": accuracy_std})
    return Row(dataset, obfuscation, condition, result, **({"images": 7701, "pairs": 6000} | changes))


COST_KEYS = (
    "client_macs", "server_macs", "client_parameters", "server_parameters", "client_latency_ms", "server_latency_ms",
    "client_onnx_latency_ms", "server_onnx_latency_ms",
)  # fmt: skip
COST = {"client_macs": 22_050_000, "server_macs": 221_000_000, "client_parameters": 1234, "client_latency_ms": 2.345}
ROWS = [
    make_row("lfw", None, "clear", 0.9975, accuracy_std=0.0025),
    make_row("lfw", "gaussian", "obfuscated", 0.80),
    make_row("lfw", "gaussian", "compensated", 0.95, extras={"payload_bytes": 14251.5, **COST}, intervals=INTERVALS),
    make_row("lfw", "hybrid", "obfuscated", 0.70),
    make_row("lfw", "hybrid", "compensated", 0.60),
    make_row("cplfw", None, "clear", 0.90),
    make_row("cplfw", "gaussian", "obfuscated", 0.90),
    make_row("cplfw", "gaussian", "compensated", 0.92),
    make_row("calfw", None, "clear", 0.95),
]


def cells(rows: list[Row]) -> list[list[str]]:
    """The table's body: what stands under each piece of the rule, which must be all there is."""
    lines = summary_table(rows).text().splitlines()
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
    lines = summary_table(ROWS).text().splitlines()
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
    assert summary_table(ROWS).text().isascii()
    assert summary_table(ROWS).text().endswith("\n")


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
        summary_table([*ROWS, ROWS[1]])


def test_row_checks_its_condition() -> None:
    with pytest.raises(ValueError, match="condition 'blurred', expected one of clear, obfuscated, compensated"):
        make_row("lfw", "median", "blurred", 0.9)
    with pytest.raises(ValueError, match="'compensated' without an obfuscation"):
        make_row("lfw", None, "compensated", 0.9)


def test_published_accuracies_get_a_column_where_there_are_any() -> None:
    rows = [replace(ROWS[0], reference_accuracy=0.9982), *ROWS[1:]]
    lines = cells(rows)
    header = summary_table(rows).columns
    assert header[2:4] == ["clear %", "published %"]
    assert [line[3] for line in lines] == ["99.82", "99.82", "-", "-"]
    assert "published %" not in summary_table(ROWS).columns


def test_rates_table_holds_every_row_in_per_cent() -> None:
    plain, full = rates_table(ROWS, intervals=False), rates_table(ROWS, intervals=True)
    assert plain.columns == full.columns
    found = dict(zip(plain.columns, plain.body[2], strict=True))
    assert found == {
        "dataset": "lfw",
        "obfuscation": "gaussian",
        "condition": "compensated",
        "accuracy %": "95.00",
        "AUC %": "97.00",
        "EER %": "4.00",
        "TAR@FAR=1e-1 %": "99.00",
        "TAR@FAR=1e-2 %": "87.50",
        "TAR@FAR=1e-3 %": "-",
        "TAR@FAR=1e-4 %": "-",
        "threshold": "1.250",
        "payload bytes": "14,252",
    }
    with_intervals = dict(zip(full.columns, full.body[2], strict=True))
    assert with_intervals["accuracy %"] == "95.00 [94.00, 96.00]"
    assert with_intervals["AUC %"] == "97.00 [96.25, 97.50]"
    assert with_intervals["TAR@FAR=1e-2 %"] == "87.50 [80.00, 90.00]"
    assert with_intervals["TAR@FAR=1e-3 %"] == "-"
    assert full.body[1] == plain.body[1]  # this row has no intervals


def test_notes_explain_what_the_tables_hold() -> None:
    (protocol, words, recovery, about_intervals, about_payload, about_cost, missing) = notes_on(ROWS)
    assert "LFW protocol" in protocol and "+/-" in protocol
    for word in ("genuine", "impostor", "FMR", "FNMR", "FAR", "TAR", "ROC", "DET", "AUC", "EER"):
        assert word in words
    assert recovery.startswith("recovery: ")
    assert "95 % interval" in about_intervals
    assert about_payload.startswith("payload bytes: ")
    assert about_cost.startswith("cost of a face: ")
    assert f"lfw at 1e-3 ({REASON})" in missing
    assert missing.count(": lfw at") + missing.count("; lfw at") == 1  # said once, not for every row
    measured = replace(RATES, missing={})
    assert notes_on([replace(ROWS[0], result=measured)]) == [protocol, words, recovery]


def test_markdown_is_a_table_of_the_same_cells() -> None:
    table = Table(["name", "a|b"], [["x|y", "1"], ["z", "22"]], text_columns=1)
    assert table.markdown() == "| name | a\\|b |\n| --- | ---: |\n| x\\|y | 1 |\n| z | 22 |\n"
    assert table.text() == "name  a|b\n----  ---\nx|y     1\nz      22\n"


def test_costs_have_a_table_of_their_own() -> None:
    table = condition_costs(ROWS)
    assert table is not None
    assert dict(zip(table.columns, table.body[0], strict=True)) == {
        "condition": "compensated", "client MMAC": "22.1", "server MMAC": "221.0", "client parameters": "1,234",
        "server parameters": "-", "client ms": "2.3", "server ms": "-", "client ms (ONNX)": "-",
        "server ms (ONNX)": "-", "client/server %": "10.0",
    }  # fmt: skip
    assert len(table.body) == 1
    assert condition_costs(ROWS[:2]) is None


def naive_flat(row: Row) -> dict[str, Any]:
    """The row as results.json holds it, key by key."""
    values, intervals = row.result.values, row.intervals or {}
    fars = ("1e-1", "1e-2", "1e-3")

    def interval(key: str) -> list[float] | None:
        return list(found) if (found := intervals.get(key)) else None

    return {
        "dataset": row.dataset,
        "obfuscation": row.obfuscation,
        "condition": row.condition,
        "accuracy": values["accuracy"],
        "accuracy_std": values["accuracy_std"],
        "auc": values["auc"],
        "eer": values["eer"],
        "tar_at_far": {far: values[f"tar_at_far_{far}"] for far in fars},
        "threshold": values["threshold"],
        "images": row.images,
        "pairs": row.pairs,
        "payload_bytes": row.extras.get("payload_bytes"),
        "payload_image_bytes": row.extras.get("payload_image_bytes"),
        "payload_feature_bytes": row.extras.get("payload_feature_bytes"),
        **{key: row.extras.get(key) for key in COST_KEYS},
        "tar_at_far_missing": {"1e-3": REASON},
        "accuracy_interval": interval("accuracy"),
        "auc_interval": interval("auc"),
        "eer_interval": interval("eer"),
        "tar_at_far_interval": {far: interval(f"tar_at_far_{far}") for far in fars[:2]} if intervals else None,
        "reference_accuracy": row.reference_accuracy,
    }


def test_json_holds_rows_as_rates_and_the_config(tmp_path: Path) -> None:
    config = {"root": Path("a") / "b", "sets": ("lfw",), "batch": 64}
    paths = write_results(tmp_path / "out", ROWS, config, ["a note"])
    assert paths["json"] == tmp_path / "out" / "results.json"
    content = json.loads(paths["json"].read_text())
    assert content["config"] == {"root": str(Path("a") / "b"), "sets": ["lfw"], "batch": 64}
    assert content["rows"] == [naive_flat(row) for row in ROWS]
    assert content["notes"] == ["a note"]
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["results.csv", "results.json", "results.md"]


def test_csv_holds_the_same_numbers(tmp_path: Path) -> None:
    write_results(tmp_path, ROWS, {})
    with (tmp_path / "results.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == len(ROWS)
    for line, row in zip(lines, ROWS, strict=True):
        flat = naive_flat(row)
        del flat["tar_at_far_missing"]
        tars, tar_intervals = flat.pop("tar_at_far"), flat.pop("tar_at_far_interval") or {}
        intervals = {name: flat.pop(f"{name}_interval") for name in ("accuracy", "auc", "eer")}
        flat |= {f"tar_at_far_{far}": rate for far, rate in tars.items()}
        for name, interval in {
            **intervals,
            **{f"tar_at_far_{far}": tar_intervals.get(far) for far in REPORTED_FARS},
        }.items():
            flat[f"{name}_low"], flat[f"{name}_high"] = interval or (None, None)
        assert line == {name: "" if value is None else str(value) for name, value in flat.items()}


def test_markdown_file_holds_all_tables_and_the_notes(tmp_path: Path) -> None:
    text = write_results(tmp_path, ROWS, {}, ["first note", "second note"])["md"].read_text()
    assert summary_table(ROWS).markdown() in text
    assert rates_table(ROWS, intervals=True).markdown() in text
    costs = condition_costs(ROWS)
    assert costs is not None and f"## Cost of a face\n\n{costs.markdown()}" in text
    assert "- first note\n- second note\n" in text


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


def test_reports_need_no_matplotlib_before_they_draw() -> None:
    command = "import sys, validation.report.rows; sys.exit('matplotlib' in sys.modules)"
    root = Path(report.__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", command], cwd=root, check=False).returncode == 0
