"""No function of the project is longer than a screen."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MAX_LINES = 50


def test_no_function_is_longer_than_a_screen() -> None:
    files = [
        ROOT / "train.py",
        *(path for name in ("torchkit", "validation", "benchmarks") for path in (ROOT / name).rglob("*.py")),
    ]
    too_long = [
        f"{path.relative_to(ROOT)}: {node.name} has {lines} lines"
        for path in files
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (lines := (node.end_lineno or node.lineno) - node.lineno + 1) > MAX_LINES
    ]
    assert not too_long, "\n".join(too_long)
