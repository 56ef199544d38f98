"""validation/attack_main.py from its settings to its files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import draw_face, write_jpeg
from parties import whole_system, write_files

from torchkit.server import Recogniser
from torchkit.task import AttackTask
from validation import attack_suite
from validation.attack_settings import AttackSuiteSettings
from validation.attack_suite import AttackSuite, load_judge
from validation.measure.attackers import Outcome
from validation.measure.excess import METRICS, Excess, Margins
from validation.measure.inversion import BUDGETS, Budget
from validation.report.attack_outputs import AttackResults, write_attack_outputs
from validation.report.attack_rows import Control, is_flat, steep_curves, verdicts

ALL = ("inversion", "linkage", "distillation")
TINY = Budget(None, None, start_steps=4, steps=4, batch_size=4, width=4)
PEOPLE = {"train": (8, 4), "val": (14, 6)}
"""Set -> people, and images of each."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A client, its server, and faces of 8 people to learn from and 14 others."""
    folder = tmp_path_factory.mktemp("suite")
    write_files(folder)
    for name, (people, images) in PEOPLE.items():
        for person in range(people):
            for image in range(images):
                path = folder / name / f"{person:02d}" / f"{image}.jpg"
                path.parent.mkdir(parents=True, exist_ok=True)
                write_jpeg(path, draw_face(1000 * people + images * person + image))
    return folder


def settings(folder: Path, out: Path, **changes: Any) -> AttackSuiteSettings:
    values = {
        "client": folder / "client.pth", "faces": folder, "out": out, "seeds": (1,), "examples": 2, "device": "cpu",
        "judge_checkpoint": folder / "none.dat",
    }  # fmt: skip
    return AttackSuiteSettings.model_validate(values | changes)


@pytest.fixture(scope="module")
def tiny() -> Iterator[None]:
    """A budget of seconds, and a judge that needs no weights."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(BUDGETS, "small", TINY)  # type: ignore[misc]
        patch.setattr(attack_suite, "load_judge", lambda settings, system: Recogniser("mobilefacenet"))
        patch.setattr(attack_suite, "DISTILLATION_PAIRS", (None,))
        patch.setattr("validation.measure.distillation.BATCH", 4)
        patch.setattr("validation.measure.distillation.FEWEST_PAIRS", 8)
        yield


@pytest.fixture(scope="module")
def finished(folder: Path, tmp_path_factory: pytest.TempPathFactory, tiny: None) -> tuple[Path, AttackResults]:
    """The folder and the results of a run of all attacks but that on attributes."""
    out = tmp_path_factory.mktemp("out")
    results = AttackSuite(settings(folder, out, attacks=ALL)).run()
    write_attack_outputs(out, results)
    return out, results


def test_results(finished: tuple[Path, AttackResults]) -> None:
    out, _ = finished
    assert {path.name for path in out.iterdir() if path.is_file()} == {
        "report.html", "results.json", "results.csv", "results.md", "image_sheet.png",
    }  # fmt: skip
    content = json.loads((out / "results.json").read_text())
    inverted = [row["observation"] for row in content["rows"] if row["attack"] == "inversion"]
    assert sorted(inverted) == sorted([
        "mean_face", "O", "O+e", "O+Z", "O+Z_wrong_key", "O+e+Z", "O+e+Z_wrong_key", "e", "O+e+function", "shallow",
        "clear",
    ])  # fmt: skip
    assert {row["attack"] for row in content["rows"]} == {"inversion", "none", "linkage", "distillation"}
    assert all(set(METRICS) <= set(row) for row in content["rows"])
    assert {(excess["kind"], excess["metric"]) for excess in content["excess"]} == {
        (kind, metric) for kind in ("operational", "conditional") for metric in METRICS
    }
    assert set(content["controls"][0]) == {"name", "expected", "value", "holds"}
    assert content["config"]["images"] == {"train": 32, "held_out": 84}
    assert "too weak" in content["verdicts"][0]  # four steps are


def test_page_needs_nothing_but_itself(finished: tuple[Path, AttackResults]) -> None:
    page = (finished[0] / "report.html").read_text()
    assert page.count("<img ") == page.count('src="data:image/png') == 2 * 5
    assert "http" not in page.split("</head>")[1]


def test_excess_is_that_of_the_rows(finished: tuple[Path, AttackResults]) -> None:
    results = finished[1]
    rows = {row["observation"]: row for row in results.rows if row["attack"] == "inversion"}
    for excess in results.excesses:
        more = {"operational": "O+Z", "conditional": "O+e+Z"}[excess.kind]
        assert excess.value == pytest.approx(rows[more][excess.metric] - rows["O+e"][excess.metric])
        assert excess.low - 1e-9 <= excess.value <= excess.high + 1e-9


def test_nothing_is_done_twice(
    folder: Path, finished: tuple[Path, AttackResults], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(AttackTask, "run", lambda task: pytest.fail("an attack was repeated"))
    out, results = finished
    monkeypatch.setattr(attack_suite, "distil", lambda *_: pytest.fail("a distillation was repeated"))
    assert AttackSuite(settings(folder, out, attacks=ALL)).run().rows == results.rows


def test_another_client_needs_another_folder(folder: Path, finished: tuple[Path, AttackResults]) -> None:
    suite = AttackSuite(settings(folder, finished[0], obfuscation="median"))
    with pytest.raises(ValueError, match="give another --out folder"):
        suite.run()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"held_out_set": "train"}, "are both train"),
        ({"observations": ["O+x"]}, "unknown part 'x'"),
        ({"attacks": ["attributes"]}, "give them with --attributes"),
        ({"budget": "huge"}, "budget"),
    ],
)
def test_bad_input_is_refused_with_the_remedy(
    folder: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        AttackSuite(settings(folder, tmp_path, **changes))


def test_too_few_people_are_refused(folder: Path, tmp_path: Path) -> None:
    lines = [f"val/{person:02d}/{image}.jpg {person}\n" for person in range(3) for image in range(8)]
    (folder / "few.txt").write_text("".join(lines))
    with pytest.raises(ValueError, match="3 people are too few"):
        AttackSuite(settings(folder, tmp_path, held_out_set="few"))


def test_a_client_that_sends_nothing_has_nothing_to_link(folder: Path, tmp_path: Path) -> None:
    silent = attack_suite.AttackInputs(whole_system(folder))
    silent.sent = []
    with pytest.raises(ValueError, match="sends no features"):
        attack_suite.check_attacks(settings(folder, tmp_path, attacks=("linkage",)), silent)
    with pytest.raises(ValueError, match="sends no features"):
        silent.inputs(("O", "Z"))


@pytest.mark.parametrize(
    ("judge", "message"),
    [
        ("mobilefacenet", "--judge mobilefacenet: the client or its server is that network"),
        ("dlib_resnet", "no weights for the judge dlib_resnet"),
    ],
)
def test_judge_is_neither_client_nor_server(folder: Path, tmp_path: Path, judge: str, message: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        load_judge(settings(folder, tmp_path, judge=judge), whole_system(folder))


def test_without_a_judge_nothing_is_distilled(folder: Path, tmp_path: Path) -> None:
    alone = settings(folder, tmp_path, judge="none", attacks=("distillation",))
    assert load_judge(alone, whole_system(folder)) is None
    with pytest.raises(ValueError, match="without a --judge"):
        AttackSuite(alone)


def test_no_excess_needs_controls_that_hold() -> None:
    excess = Excess("operational", "ssim", 0.002, -0.001, 0.006)
    good = Control("shallow map", "ssim at least 0.85", 0.9, holds=True)
    assert "no excess" in verdicts([excess], [good], Margins())[0]
    assert "an excess cannot be ruled out" in verdicts([replace(excess, high=0.02)], [good], Margins())[0]
    assert ": an excess beyond" in verdicts([replace(excess, low=0.02, high=0.04)], [good], Margins())[0]
    bad = replace(good, value=0.4, holds=False)
    assert "too weak" in verdicts([excess], [good, bad], Margins())[0]


def test_attackers_that_still_learn_are_named() -> None:
    falling = [{"step": step, "loss": 1 - 0.05 * step} for step in range(10)]
    flat = [{"step": step, "loss": 0.3} for step in range(10)]
    outcomes = [Outcome("O", 1, {}, np.empty(0), flat), Outcome("O+Z", 1, {}, np.empty(0), falling)]
    assert "budget: O+Z." in steep_curves(outcomes)[0]
    assert steep_curves(outcomes[:1]) == []


def test_flat_curves() -> None:
    losses = np.linspace(1, 0.2, 10)
    assert not is_flat([{"step": step, "loss": loss} for step, loss in enumerate(losses)])
    assert is_flat([{"step": step, "loss": loss} for step, loss in enumerate([1.0, 0.5, *[0.3] * 8])])
