"""validation/rate_main.py: points of accuracy and bytes, each of a message that was really encoded."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import parties
import pytest
import torch
from conftest import draw_face

from torchkit.backbone import get_model
from torchkit.client.calibrate import is_compressed, recompressed
from torchkit.data.validation_set import load_validation_set, write_validation_set
from torchkit.server import load_recogniser
from torchkit.system import ProFaceC, ServerReference, load_system, save_client_file
from torchkit.util.cli import run_command
from torchkit.util.pixels import to_batch
from validation import rate_main
from validation.measure.conditions import Case
from validation.measure.evaluate import Computation, embed
from validation.measure.payload_size import SizeCounter
from validation.protocol.verification import verify

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """float.pth, quantised.pth and the validation set sets/eight."""
    folder = tmp_path_factory.mktemp("rate")
    torch.manual_seed(0)
    torch.save(get_model("mobilefacenet").state_dict(), folder / "server.pth")
    recogniser = load_recogniser("mobilefacenet", folder / "server.pth")
    for name, settings in (("float", parties.FLOAT), ("quantised", parties.QUANTISED)):
        system = ProFaceC(parties.trained_client(settings), recogniser)
        save_client_file(folder / f"{name}.pth", system, ServerReference("mobilefacenet", folder / "server.pth"), 1)
    images = np.stack([draw_face(seed).transpose(2, 0, 1) for seed in range(8)])
    rows = np.random.default_rng(0).integers(0, 8, 40)
    write_validation_set(folder / "sets", "eight", images, np.arange(20) % 2 == 0, rows)
    return folder


def run(home: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> dict[str, Any]:
    options = ["--data-root", home / "sets", "--dataset", "eight", "--amp", "none", "--num-workers", "0"]
    monkeypatch.setattr(sys, "argv", ["rate_main.py", *map(str, options), "--out", str(home / "out"), *arguments])
    parsed = rate_main.parse_arguments()
    run_command(lambda: rate_main.main(parsed), show_traceback=False)
    report: dict[str, Any] = json.loads((home / "out" / "rate.json").read_text())
    return report


def test_points_are_what_validation_and_the_payload_say(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [str(home / "float.pth"), str(home / "quantised.pth")]
    report = run(home, monkeypatch, "--clients", *files, "--bits", "4", "1", "--prune", "0", "0.75")
    points = report["points"]
    series = [(point["series"], point["bits"], point["pruned_values"]) for point in points]
    after = "compressed afterwards"
    assert series == [
        ("clear", None, None), ("obfuscated", None, None), ("trained", [32] * 4, None),
        ("published layout", [32] * 4, None), (after, [4] * 4, 0.0), (after, [4] * 4, 0.75), (after, [1] * 4, 0.0),
        ("trained", [8, 4, 2, 1], None), ("trained, not quantised", [8, 4, 2, 1], None),
    ]  # fmt: skip
    system = load_system(home / "quantised.pth")
    data = load_validation_set(home / "sets", "eight")
    case, computation = Case("compensated", "hybrid"), Computation(CPU)
    counter = SizeCounter(len(data.images), computation)
    embeddings = embed(system, data, [case], rate_main.Settings.seed, computation, [counter])
    expected = verify(embeddings[case], data.same)
    assert points[-2]["accuracy"] == pytest.approx(expected.accuracy)
    size = counter.mean_sizes([case])[case]
    assert points[-2]["size"]["message"] == size.message < points[-1]["size"]["message"]
    four_bits, pruned, one_bit = (points[place]["size"]["features"] for place in (4, 5, 6))
    assert points[2]["size"]["features"] > 4 * four_bits > 4 * pruned and four_bits > one_bit
    assert points[3]["size"]["features"] == 4 * (64 * 28 * 28 + 128 * 14 * 14 + 128 * 7 * 7 + 512 * 7 * 7)
    assert (home / "out" / "rate.png").read_bytes().startswith(b"\x89PNG")


def test_share_of_values_out_of_range_is_refused(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        run(home, monkeypatch, "--clients", str(home / "float.pth"), "--prune", "1.5")
    assert "--prune: 1.5: expected a number from 0 to below 1" in capsys.readouterr().err


def test_compressing_afterwards_prunes_the_smallest_and_rounds_the_rest() -> None:
    client = parties.trained_client(parties.FLOAT)
    prepared = client.prepare(to_batch([draw_face(1), draw_face(2)]), to_batch([draw_face(3), draw_face(4)]))
    made = recompressed(client, 4, 0.5, prepared)
    assert is_compressed(made) and not is_compressed(client)
    with torch.no_grad():
        for plain, features, name in zip(client(prepared), made(prepared), made.quantisers, strict=True):
            step = made.quantisers[name].step
            assert (features == 0).float().mean() > 0.49
            smallest_kept = plain.abs()[made.pruners[name](plain) != 0].min()
            assert plain.abs()[features == 0].max() <= max(smallest_kept, step / 2)
            inside = (features != 0) & (plain.abs() < 7 * step)
            assert ((features - plain).abs()[inside] <= step / 2 + 1e-6).all()
