"""validation/compare.py: the table, McNemar's test, the files of pairs, and what cannot be compared."""

from __future__ import annotations

import csv
import json
import sys
from dataclasses import replace
from fractions import Fraction
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, chi2

from torchkit.data.validation_set import ValidationSet
from torchkit.util.cli import run_command
from validation import compare
from validation.protocol.mcnemar import EXACT_UP_TO, mcnemar, two_sided_p
from validation.protocol.pairs import PairScores, digest_of, pairs_file, read_pairs, score_pairs, write_pairs
from validation.protocol.verification import k_fold, verify_distances
from validation.report.rows import Row, write_results

PAIRS = 40
LABELS = ("clear", "hybrid, obfuscated")


def tiny_data(name: str = "six", pairs: int = PAIRS, seed: int = 0) -> ValidationSet:
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (6, 3, 4, 4), np.uint8)
    return ValidationSet(name, images, rng.integers(0, 6, 2 * pairs), np.arange(pairs) % 2 == 0)


def write_run(folder: Path, data: ValidationSet, labels: tuple[str, ...] = LABELS, seed: int = 0) -> PairScores:
    """What val_main.py leaves that compare.py reads."""
    rng = np.random.default_rng(seed)
    means = np.where(data.same, 1.0, 1.8)
    distances = {name: rng.normal(means, 0.5).clip(0, 4) for name in labels}
    results = {name: verify_distances(found, data.same) for name, found in distances.items()}
    scores = score_pairs(data, distances, results)
    write_pairs(folder, scores)
    rows = []
    for name, result in results.items():
        kind, _, condition = name.rpartition(", ")
        rows.append(Row(data.name, kind or None, condition, result, len(data.images), len(data.same)))
    write_results(folder, rows, {})
    return scores


# McNemar's test


@pytest.mark.parametrize(("only_first", "only_second"), [(0, 0), (1, 0), (3, 3), (2, 9), (25, 11), (400, 480), (0, 30)])
def test_p_is_the_exact_binomials(only_first: int, only_second: int) -> None:
    total = only_first + only_second
    expected = binomtest(only_first, total, 0.5).pvalue if total else 1.0
    assert two_sided_p(only_first, only_second) == pytest.approx(expected)


def test_p_of_few_pairs_counted_by_hand() -> None:
    # 5 discordant pairs, 1 of them for the first: of the 32 ways 2 * (1 + 5) are at least as uneven.
    assert two_sided_p(1, 4) == float(Fraction(12, 32))
    uneven = sum(min(sum(way), 5 - sum(way)) <= 1 for way in product((0, 1), repeat=5))
    assert uneven == 12


@pytest.mark.parametrize(("only_first", "only_second"), [(600, 700), (5000, 5400), (900, 901)])
def test_p_of_many_pairs_is_the_corrected_chi_squared(only_first: int, only_second: int) -> None:
    assert only_first + only_second > EXACT_UP_TO
    statistic = (abs(only_first - only_second) - 1) ** 2 / (only_first + only_second)
    assert two_sided_p(only_first, only_second) == pytest.approx(chi2.sf(statistic, 1))
    assert two_sided_p(only_first, only_second) == pytest.approx(
        binomtest(only_first, only_first + only_second).pvalue, rel=0.02
    )


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_only_discordant_pairs_count(decisions: list[tuple[bool, bool]]) -> None:
    first, second = (np.array(column) for column in zip(*decisions, strict=True))
    found = mcnemar(first, second)
    assert found.only_first == sum(a and not b for a, b in decisions)
    assert found.only_second == sum(b and not a for a, b in decisions)
    turned = mcnemar(second, first)
    assert (turned.only_first, turned.only_second) == (found.only_second, found.only_first)
    assert turned.p_value == found.p_value
    assert 0 < found.p_value <= 1
    assert mcnemar(first, first).p_value == 1


def test_decisions_of_another_shape() -> None:
    with pytest.raises(ValueError, match=r"decisions are \(3,\) bool and \(4,\) bool, expected \(n,\) bool twice"):
        mcnemar(np.ones(3, bool), np.ones(4, bool))
    with pytest.raises(ValueError, match="float64"):
        mcnemar(np.ones(3), np.ones(3, bool))


# The files of pairs


def test_pairs_come_back_as_they_were_written(tmp_path: Path) -> None:
    data = tiny_data()
    scores = write_run(tmp_path, data)
    found = read_pairs(tmp_path, "six")
    assert (found.dataset, found.digest, found.labels) == ("six", digest_of(data), LABELS)
    np.testing.assert_array_equal(found.same, data.same)
    np.testing.assert_array_equal(found.distances, scores.distances.astype(np.float32))
    assert found.distances.dtype == np.float32
    for name, distances in zip(LABELS, scores.distances, strict=True):
        np.testing.assert_array_equal(found.correct_of(name), k_fold(distances, data.same).correct)
    with np.load(pairs_file(tmp_path, "six"), allow_pickle=False) as file:  # a pickle would be refused
        assert sorted(file) == ["correct", "digest", "distances", "labels", "same"]


def test_digest_tells_images_and_pairs_apart() -> None:
    data = tiny_data()
    other_image, other_pairs, other_kinds = (array.copy() for array in (data.images, data.rows, data.same))
    other_image[0, 0, 0, 0] ^= 1
    other_pairs[[0, 2]] = other_pairs[[2, 0]] + [0, 1]
    other_kinds[0] ^= True
    changed = [{"images": other_image}, {"rows": other_pairs}, {"same": other_kinds}]
    digests = [digest_of(data), *(digest_of(replace(data, **change)) for change in changed)]
    assert len(set(digests)) == 4
    assert digest_of(tiny_data()) == digests[0]


def test_other_files_of_pairs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"pairs_six\.npz not found: run val_main\.py again"):
        read_pairs(tmp_path, "six")
    write_run(tmp_path, tiny_data())
    path = pairs_file(tmp_path, "six")
    whole = path.read_bytes()
    with np.load(path) as file:
        arrays = dict(file)
    np.savez(path, **{**arrays, "correct": arrays["correct"][:, 1:]})
    with pytest.raises(ValueError, match=r"holds distances \(2, 40\) and decisions \(2, 39\)"):
        read_pairs(tmp_path, "six")
    np.savez(path, **{**arrays, "same": arrays["same"].astype(float)})
    with pytest.raises(ValueError, match="holds other types"):
        read_pairs(tmp_path, "six")
    np.savez(path, **{**arrays, "labels": np.array([{}, {}], object)}, allow_pickle=True)
    for damaged in (path.read_bytes(), whole[: len(whole) // 2], b"", b"hello"):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="damaged or no file of"):
            read_pairs(tmp_path, "six")


# The command


def run(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: object
) -> tuple[int, str, str]:
    """Exit code, standard output and error of the command."""
    monkeypatch.setattr(sys, "argv", ["compare.py", *map(str, arguments)])
    parsed, code = compare.parse_arguments(), 0
    try:
        run_command(lambda: compare.main(parsed), parsed.traceback)
    except SystemExit as stop:
        code = int(str(stop.code))
    shown = capsys.readouterr()
    return code, shown.out, shown.err


def test_command_prints_and_writes_the_same_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = write_run(tmp_path / "a" / "validation", tiny_data(), seed=1)
    second = write_run(tmp_path / "b" / "validation", tiny_data(), ("clear",), seed=2)
    folders = [tmp_path / name / "validation" for name in "ab"]
    monkeypatch.setattr(compare, "DEFAULT_OUT", tmp_path / "out")
    code, shown, error = run(capsys, monkeypatch, *folders)
    assert (code, error) == (0, "")
    with (tmp_path / "out" / "compare.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [(line["condition"], line["run"]) for line in lines] == [
        ("clear", "a"),
        ("clear", "b"),
        ("hybrid, obfuscated", "a"),
    ]
    accuracy = [k_fold(scores.distances[0], scores.same).accuracies.mean() for scores in (first, second)]
    assert [float(line["accuracy %"]) for line in lines[:2]] == pytest.approx(100 * np.array(accuracy), abs=0.005)
    counted = lines[1]
    assert float(counted["difference"]) == pytest.approx(100 * (accuracy[1] - accuracy[0]), abs=0.005)
    assert int(counted["only first right"]) == (first.correct[0] & ~second.correct[0]).sum()
    assert int(counted["only this right"]) == (second.correct[0] & ~first.correct[0]).sum()
    expected = binomtest(int(counted["only first right"]), int(np.sum(first.correct[0] != second.correct[0]))).pvalue
    assert float(counted["p"]) == pytest.approx(expected, abs=0.0005)
    assert [line["p"] for line in (lines[0], lines[2])] == ["-", "-"]
    markdown = (tmp_path / "out" / "compare.md").read_text()
    for line in lines:
        assert "| " + " | ".join(line.values()) + " |" in markdown
        assert all(cell in shown for cell in line.values())
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == [
        "compare.csv",
        "compare.md",
        "compare_roc_six.png",
    ]


def test_a_run_beside_itself_differs_nowhere(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        write_run(tmp_path / name, tiny_data())
    table = compare.comparison_table(compare.load_runs([tmp_path / name for name in "abc"], None))
    compared = [line[-4:] for line in table.body]
    assert compared == [["-"] * 4, ["+0.00", "0", "0", "1.000"], ["+0.00", "0", "0", "1.000"]] * 2


def test_what_cannot_be_compared_gets_a_clear_message(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_run(tmp_path / "a", tiny_data())
    write_run(tmp_path / "images", tiny_data(seed=1))
    write_run(tmp_path / "fewer", tiny_data(pairs=30))
    write_run(tmp_path / "other", tiny_data("seven"))
    write_run(tmp_path / "damaged", tiny_data())
    (tmp_path / "damaged" / "results.json").write_text('{"rows": [{}]}')
    write_run(tmp_path / "old", tiny_data())
    pairs_file(tmp_path / "old", "six").unlink()
    cases = {
        "expected two or more different folders": ["a"],
        "a: expected two or more different": ["a", "a"],
        "nowhere/results.json not found": ["a", "nowhere"],
        "different images or pairs of six": ["a", "images"],
        "40 and 30 pairs of six": ["a", "fewer"],
        "none is in common": ["a", "other"],
        "results.json is damaged": ["a", "damaged"],
        "pairs_six.npz not found": ["a", "old"],
    }
    for message, names in cases.items():
        code, _, error = run(capsys, monkeypatch, *(tmp_path / name for name in names))
        assert code == 2, names
        assert message in error
        assert error.startswith("error: ")


def test_sets_in_common_can_be_chosen(tmp_path: Path) -> None:
    write_run(tmp_path / "a", tiny_data())
    write_run(tmp_path / "b", tiny_data())
    content = json.loads((tmp_path / "b" / "results.json").read_text())
    content["rows"].append({**content["rows"][0], "dataset": "seven"})
    (tmp_path / "b" / "results.json").write_text(json.dumps(content))
    for folders in (["a", "b"], ["b", "a"]):
        with pytest.raises(ValueError, match="compare those in common with --datasets six"):
            compare.load_runs([tmp_path / name for name in folders], None)
        assert list(compare.load_runs([tmp_path / name for name in folders], ["six"])[0].scores) == ["six"]


@pytest.mark.parametrize(
    ("folders", "names"),
    [
        (["/r/a/validation", "/r/b/validation"], ["a", "b"]),
        (["/r/a", "/r/b/x"], ["a", "b/x"]),
        (["/r/a", "/r/a/b"], ["a", "a/b"]),
        (["/r/x/a", "/r/y/b", "/r/x/b"], ["x/a", "y/b", "x/b"]),
    ],
)
def test_runs_are_called_by_what_tells_them_apart(folders: list[str], names: list[str]) -> None:
    assert compare.short_names([Path(folder) for folder in folders]) == names
