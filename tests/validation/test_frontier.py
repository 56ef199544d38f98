"""The frontier: recipes are configurations, finished steps are not repeated, rows are those of the results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from torchkit.config import load_config
from torchkit.config.client import ClientConfig
from validation.frontier_main import write_frontier
from validation.measure import frontier as frontier_module
from validation.measure.frontier import RECIPES, ROOT, Frontier, Recipe, run
from validation.report.frontier import FrontierRow, frontier_table, rows_of

RESULTS = {
    "rows": [
        {"condition": "clear", "accuracy": 0.97, "client_macs": 0, "server_macs": 221e6},
        {
            "condition": "compensated", "accuracy": 0.95, "accuracy_interval": [0.94, 0.96], "payload_bytes": 3000.5,
            "client_macs": 18e6, "server_macs": 270e6,
        },
        {"condition": "client_alone", "accuracy": 0.7, "payload_bytes": None, "client_macs": 18e6, "server_macs": 0},
        {"condition": "embedding_1_bit", "accuracy": 0.96, "payload_bytes": 1800, "client_macs": 221e6,
         "server_macs": 0},
    ]
}  # fmt: skip
ATTACK = {
    "excess": [
        {"kind": "operational", "metric": "ssim", "value": 0.12, "low": 0.1, "high": 0.14},
        {"kind": "operational", "metric": "tar_fmr_1e-2", "value": 0.03, "low": 0.0, "high": 0.06},
        {"kind": "conditional", "metric": "ssim", "value": 0.2, "low": 0.1, "high": 0.3},
    ]
}


@pytest.fixture
def frontier(tmp_path: Path) -> Frontier:
    return Frontier(tmp_path / "faces", tmp_path / "sets", tmp_path / "server.pth", tmp_path / "judge.dat", tmp_path)


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_every_recipe_is_a_configuration(recipe: Recipe, frontier: Frontier) -> None:
    words = frontier.training(recipe)
    config = load_config(ROOT / words[2], words[4:])
    assert isinstance(config, ClientConfig)
    assert frontier.out / recipe.folder == config.MODEL_ROOT
    assert frontier.server == config.SERVER.CHECKPOINT
    assert (frontier.server == config.CLIENT.INIT) == recipe.starts_from_server


def test_what_is_done_is_not_repeated(frontier: Frontier, monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[str] = []

    def write(command: list[str], result: Path) -> None:
        commands.append(command[0])
        result.parent.mkdir(parents=True, exist_ok=True)
        result.touch()

    monkeypatch.setattr(frontier_module, "run", write)
    recipe = RECIPES["light client"]
    frontier.run(recipe)
    assert commands == ["train.py", "validation/val_main.py", "validation/attack_main.py"]
    frontier.accuracy_file(recipe).unlink()
    frontier.run(recipe)
    assert commands[3:] == ["validation/val_main.py"]


def test_without_a_judge_nothing_is_attacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[str] = []
    monkeypatch.setattr(frontier_module, "run", lambda command, result: commands.append(command[0]))
    Frontier(tmp_path, tmp_path, tmp_path, None, tmp_path).run(RECIPES["light client"])
    assert commands == ["train.py", "validation/val_main.py"]


def test_a_command_that_fails_ends_the_frontier(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"`python -c raise SystemExit\(3\)` ended with exit code 3 and without .*x"):
        run(["-c", "raise SystemExit(3)"], tmp_path / "x")


def test_rows_are_those_of_the_results() -> None:
    client, alone, embedding = rows_of("light client", RESULTS, ATTACK)
    assert client == FrontierRow("light client", 0.95, (0.94, 0.96), 0.7, 3000.5, 18e6, 270e6, 0.12, 0.03)
    assert alone == FrontierRow("light client alone", 0.7, None, None, None, 18e6, 0)
    assert embedding == FrontierRow("embedding only, 1 bit", 0.96, None, None, 1800, 221e6, 0, 0.0, 0.0)
    assert rows_of("light client", RESULTS, None)[0].excess_ssim is None


def test_the_report_holds_table_chart_and_json(tmp_path: Path) -> None:
    rows = rows_of("light client", RESULTS, ATTACK)
    write_frontier(tmp_path, rows, 0.97)
    report: dict[str, Any] = json.loads((tmp_path / "frontier.json").read_text())
    assert report["clear"] == 0.97
    assert [row["name"] for row in report["rows"]] == [row.name for row in rows]
    assert {"accuracy", "client_alone", "payload_bytes", "client_macs", "server_macs"} <= set(report["rows"][0])
    assert (tmp_path / "frontier.png").stat().st_size > 10_000
    lines = frontier_table(rows, 0.97).text().splitlines()
    assert lines[3].split() == ["light", "client", "95.00", "70.00", "3,000", "18.0", "270.0", "+0.120", "+3.0"]


def test_a_chart_needs_no_attack(tmp_path: Path) -> None:
    write_frontier(tmp_path, rows_of("light client", RESULTS, None)[:2], 0.97)
    assert (tmp_path / "frontier.png").is_file()
