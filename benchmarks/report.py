"""The report of bench.py: ratios of times, and the whole as a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


def summarise(rounds: Sequence[tuple[float, float]]) -> tuple[dict[str, float], dict[str, Any]]:
    """Ratios baseline over toolkit (median, min, max over the rounds), and the seconds behind them."""
    times = np.array(rounds)  # (rounds, 2)
    ratios = times[:, 0] / times[:, 1]
    theirs, ours = np.median(times, axis=0)
    ratio = {"median": float(np.median(ratios)), "min": float(ratios.min()), "max": float(ratios.max())}
    return ratio, {"baseline": float(theirs), "ours": float(ours), "rounds": times.tolist()}


def format_report(report: dict[str, Any]) -> str:
    """The report as a table."""
    lines = []
    if report["ratios"]:
        lines.append(f"{'part':<15}{'baseline s':>12}{'toolkit s':>12}{'ratio':>9}{'min':>9}{'max':>9}")
    for name, ratio in report["ratios"].items():
        seconds = report["seconds"][name]
        numbers = "".join(f"{ratio[key]:>9.2f}" for key in ("median", "min", "max"))
        lines.append(f"{name:<15}{seconds['baseline']:>12.4g}{seconds['ours']:>12.4g}{numbers}")
    lines += [
        f"{name}: {report['sizes']['images'] / report['seconds'][name]['ours']:.0f} faces a second on one thread"
        for name in ("encoding", "decoding")
        if name in report["ratios"]
    ]
    if client := report["client"]:
        milliseconds = f"PyTorch {client['torch_ms']:.1f} ms, ONNX Runtime {client['onnxruntime_ms']:.1f} ms"
        lines.append(f"client, one face: {milliseconds}")
    for name, memory in report["memory"].items():
        theirs, ours = (memory[key] / 1e6 for key in ("baseline_bytes", "ours_bytes"))
        lines.append(f"memory of {name}: baseline {theirs:.0f} MB, toolkit {ours:.0f} MB, ratio {memory['ratio']:.3f}")
    for name, speed in report["matmul"].items():
        lines.append(
            f"{name}: server {speed['server_gflop_per_s']:.1f} GFLOP/s, matrix product "
            f"{speed['matrix_gflop_per_s']:.1f} GFLOP/s, utilisation {speed['utilisation_percent']:.1f} %"
        )
    return "\n".join(lines)
