"""validation/val_main.py: what it measures and writes, whatever the batch size."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from torchkit.backbone import get_model
from torchkit.client import Client, ClientSettings
from torchkit.data.validation_set import load_validation_set, write_validation_set
from torchkit.obfuscation import EVALUATION, obfuscate
from torchkit.server import load_recogniser
from torchkit.system import ProFaceC, ServerReference, save_client_file
from torchkit.util.pixels import residual
from torchkit.util.seeding import content_stream
from validation.evaluate import Condition, conditions, embed

ROOT = Path(__file__).resolve().parents[1]
KINDS = ("gaussian", "hybrid")
PAIRS, PEOPLE = 12, 6
CPU = torch.device("cpu")


@pytest.fixture
def system(tmp_path: Path) -> ProFaceC:
    torch.save(get_model("mobilefacenet").state_dict(), tmp_path / "server.pth")
    recogniser = load_recogniser("mobilefacenet", tmp_path / "server.pth")
    client = Client(ClientSettings(server_shapes=tuple(recogniser.backbone.tap_shapes())), key_seed=1)
    made = ProFaceC(client, recogniser).eval()
    save_client_file(tmp_path / "client.pth", made, ServerReference("mobilefacenet", tmp_path / "server.pth"), 3)
    return made


@pytest.fixture
def sets(tmp_path: Path, make_picture: Callable[[int], np.ndarray]) -> Path:
    """A set "six" of 20 pairs over 6 distinct pictures; folder of the sets."""
    rng = np.random.default_rng(0)
    choice = rng.integers(0, PEOPLE, (PAIRS, 2))
    choice[:PEOPLE, 0] = np.arange(PEOPLE)  # everybody occurs
    choice[::2, 1] = choice[::2, 0]
    pictures = np.stack([make_picture(seed).transpose(2, 0, 1) for seed in range(PEOPLE)])
    write_validation_set(tmp_path / "sets", "six", pictures[choice.ravel()], choice[:, 0] == choice[:, 1])
    return tmp_path / "sets"


@pytest.mark.parametrize("batch_size", [1, 4, 5, 6, 64])  # 6 divides the set, 4 and 5 leave a partial batch
def test_any_batch_size_gives_the_rows_of_a_plain_loop(system: ProFaceC, sets: Path, batch_size: int) -> None:
    data = load_validation_set(sets, "six")
    found = embed(system, data, KINDS, CPU, batch_size, 0, seed=5)
    assert list(found) == conditions(KINDS)
    for condition, array in found.items():
        np.testing.assert_allclose(array, plain_loop(system, data.images[data.rows], condition, seed=5), atol=1e-5)


def plain_loop(system: ProFaceC, rows: np.ndarray, condition: Condition, seed: int) -> np.ndarray:
    """Every row by itself, step by step."""
    out = []
    for row in rows:
        clear = torch.from_numpy(row[None])
        if condition.obfuscation is None:
            out.append(system.recogniser(clear))
            continue
        picture = np.ascontiguousarray(row.transpose(1, 2, 0))
        rng = content_stream(picture, seed, condition.obfuscation)
        obfuscated = obfuscate(picture, condition.obfuscation, rng, EVALUATION)
        sent = torch.from_numpy(np.ascontiguousarray(obfuscated.transpose(2, 0, 1)))[None]
        if condition.name == "obfuscated":
            out.append(system.recogniser(sent))
        else:
            features = system.client(residual(clear, sent, system.client.settings.channel_order))
            out.append(system.server(sent, features))
    return torch.cat(out).detach().numpy()


def test_each_distinct_picture_is_embedded_once(system: ProFaceC, sets: Path) -> None:
    data = load_validation_set(sets, "six")
    seen = []
    system.recogniser.register_forward_hook(lambda module, inputs, output: seen.append(len(inputs[0])))
    embed(system, data, ("gaussian",), CPU, 4, 0, seed=5)
    assert len(data.images) == PEOPLE
    assert sum(seen) == 2 * PEOPLE  # clear and obfuscated; the compensated do not pass through here
    assert len(data.rows) == 2 * PAIRS


def run(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "validation" / "val_main.py"), *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=120)


def test_command_writes_results_and_plots(tmp_path: Path, system: ProFaceC, sets: Path) -> None:
    arguments = ["--backbone-resume", "client.pth", "--data-root", "sets", "--datasets", "six", "--out", "out"]
    done = run(tmp_path, *arguments, "--obfuscations", *KINDS, "--num-workers", "0", "--dump-embeddings")
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    found = [(row["dataset"], row["obfuscation"], row["condition"]) for row in results["rows"]]
    assert found == [("six", c.obfuscation, c.name) for c in conditions(KINDS)]
    for row in results["rows"]:
        assert row["pairs"] == PAIRS
        assert row["images"] == PEOPLE
        assert row["payload_bytes"] is None
        assert 0 <= row["accuracy"] <= 1
    assert results["rows"][0]["accuracy"] == 1  # equal pictures, equal embeddings
    for condition in conditions(KINDS):
        name = f"six__{condition.obfuscation or 'none'}__{condition.name}.npz"
        dumped = np.load(tmp_path / "out" / "embeddings" / name)["embeddings"]
        assert dumped.shape == (2 * PAIRS, 512)
        assert dumped.dtype == np.float32
    for plot in ("accuracy.png", "roc_six.png"):
        assert cv2.imread(str(tmp_path / "out" / plot)) is not None
    assert "100.00 +/- 0.00" in done.stdout


def test_two_runs_give_the_same_numbers(tmp_path: Path, system: ProFaceC, sets: Path) -> None:
    data = load_validation_set(sets, "six")
    first = embed(system, data, ("hybrid",), CPU, 3, 0, seed=5)
    second = embed(system, data, ("hybrid",), CPU, 3, 0, seed=5)
    other = embed(system, data, ("hybrid",), CPU, 3, 0, seed=6)
    hybrid = Condition("obfuscated", "hybrid")
    np.testing.assert_array_equal(first[hybrid], second[hybrid])
    assert not np.array_equal(first[hybrid], other[hybrid])


def test_bad_input_gets_a_clear_message(tmp_path: Path, system: ProFaceC, sets: Path) -> None:
    base = ["--backbone-resume", "client.pth", "--data-root", "sets", "--datasets"]
    cases = {
        "no validation set 'lfw'": [*base, "lfw", "six"],
        "client file not found": ["--backbone-resume", "nowhere.pth", "--data-root", "sets", "--datasets", "six"],
        "server checkpoint not found": [*base, "six", "--server-checkpoint", "nowhere.pth"],
        "was trained for a server with maps": [*base, "six", "--server", "dlib_resnet"],
        "--batch-size 0": [*base, "six", "--batch-size", "0"],
    }
    if (ROOT / "model" / "dlib_face_recognition_resnet_model_v1.dat").is_file():
        weights = ROOT / "model" / "dlib_face_recognition_resnet_model_v1.dat"
        cases["was trained for a server with maps"] += ["--server-checkpoint", str(weights)]
    else:
        del cases["was trained for a server with maps"]
    for message, arguments in cases.items():
        done = run(tmp_path, *arguments)
        assert done.returncode == 2, done.stderr
        assert message in done.stderr
        assert "Traceback" not in done.stderr


def test_damaged_set_gets_a_clear_message(tmp_path: Path, system: ProFaceC, sets: Path) -> None:
    np.save(sets / "six_list.npy", np.ones(PAIRS + 1, bool))
    done = run(tmp_path, "--backbone-resume", "client.pth", "--data-root", "sets", "--datasets", "six")
    assert done.returncode == 2
    assert "six_list.npy" in done.stderr
