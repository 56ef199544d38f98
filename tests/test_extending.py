"""docs/extending.md, followed: a toy of each kind goes into its table, and a real run has it everywhere."""

from __future__ import annotations

import csv
import json
import re
import sys
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from conftest import TinySet, draw_face
from torch import Tensor

from torchkit.backbone import get_model
from torchkit.backbone.registry import NETWORKS, Network
from torchkit.backbone.strided_encoder import StridedEncoder
from torchkit.client import Client, ClientSettings
from torchkit.config import load_config
from torchkit.data.validation_set import write_validation_set
from torchkit.obfuscation import KINDS
from torchkit.server import CompensationSettings, load_recogniser
from torchkit.server.compensation import FORMS, Form
from torchkit.system import ProFaceC, ServerReference, save_client_file
from torchkit.util.weights import plain_state
from validation import compare, val_main
from validation.measure.conditions import CONDITIONS, Condition, Subject, System
from validation.protocol.figures import FIGURES, Curves, Figure

PAIRS, PEOPLE = 12, 6


@pytest.fixture
def toys(monkeypatch: pytest.MonkeyPatch) -> None:
    """One of each kind, each through its door alone."""
    monkeypatch.setitem(KINDS, "negative", lambda image, strength, rng: 255 - image)
    monkeypatch.setitem(FORMS, "subtract", Form(lambda s, a, weights: s - a * weights))
    monkeypatch.setitem(NETWORKS, "toy_server", Network(partial(StridedEncoder), "train.py", "rgb"))
    youden = Figure("youden", "best J", Curves, lambda curves: (curves.tmr - curves.fmr).max(axis=1))
    monkeypatch.setitem(FIGURES, "youden", youden)
    mirror = Condition(
        "mirror", "the obfuscated image's mirror image, less a mean", "#7a3fb5", embed_mirror,
        message_sizes=count_pixels, prepare=mean_image,
    )  # fmt: skip
    monkeypatch.setitem(CONDITIONS, "mirror", mirror)


def embed_mirror(subject: Subject) -> Tensor:
    images = subject.observation.images.flip(-1)
    embedding: Tensor = subject.system.recogniser.forward_intermediates(images)[1] - subject.prepared
    return embedding


def mean_image(system: System, faces: Iterable[Subject]) -> float:
    """What is fitted: nothing here, where no training images are given."""
    assert not list(faces)
    return 0.0


def count_pixels(subject: Subject) -> np.ndarray:
    return np.tile([7.0, 7.0, 0.0], (len(subject.clear), 1))


@pytest.fixture
def home(tmp_path: Path, toys: None) -> Path:
    """Folder of a client of the toy server with the toy form, and of a set of 12 pairs."""
    torch.manual_seed(0)
    torch.save(plain_state(get_model("toy_server")), tmp_path / "server.pth")
    recogniser = load_recogniser("toy_server", tmp_path / "server.pth")
    settings = ClientSettings(tuple(recogniser.backbone.tap_shapes()), backbone="toy_server", shuffle_block_px=7)
    system = ProFaceC(Client(settings, key_seed=1), recogniser, CompensationSettings(form="subtract")).eval()
    save_client_file(tmp_path / "client.pth", system, ServerReference("toy_server", tmp_path / "server.pth"), 1)
    choice = np.random.default_rng(0).integers(0, PEOPLE, (PAIRS, 2))
    choice[::2, 1] = choice[::2, 0]
    choice[1::2, 1] = (choice[1::2, 0] + 1) % PEOPLE
    images = np.stack([draw_face(seed).transpose(2, 0, 1) for seed in range(PEOPLE)])
    write_validation_set(tmp_path / "sets", "six", images, choice[:, 0] == choice[:, 1], choice.ravel())
    return tmp_path


def validate(home: Path, out: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    options = [
        "--backbone-resume", home / "client.pth", "--data-root", home / "sets", "--datasets", "six", "--obfuscations",
        "negative", "--conditions", "clear", "compensated", "mirror", "--resamples", "10", "--examples", "1",
        "--num-workers", "0", "--device", "cpu", "--amp", "none", "--out", home / out,
    ]  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["val_main.py", *map(str, options)])
    val_main.main(val_main.parse_arguments())
    return home / out


def test_a_toy_of_each_kind_is_in_every_output(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = validate(home, "out", monkeypatch)
    results = json.loads((out / "results.json").read_text())
    assert results["config"]["recogniser"]["name"] == "toy_server"
    rows = {(row["condition"], row["obfuscation"]): row for row in results["rows"]}
    assert list(rows) == [("clear", None), ("compensated", "negative"), ("mirror", "negative")]
    mirror = rows["mirror", "negative"]
    assert 0 <= mirror["youden_interval"][0] <= mirror["youden"] <= mirror["youden_interval"][1] <= 1
    assert mirror["payload_bytes"] == 7
    with (out / "results.csv").open(newline="") as file:
        line = list(csv.DictReader(file))[2]
    assert float(line["youden"]) == mirror["youden"] and float(line["youden_low"]) == mirror["youden_interval"][0]
    markdown, page = (out / "results.md").read_text(), (out / "report.html").read_text()
    for text in ("best J", "mirror", "negative"):
        assert text in markdown and text in page
    assert "image&#39;s mirror image, less a mean" in page
    assert "#7a3fb5" in page  # its curves and bars
    assert re.search(r'data-key="youden"><data value="[\d.]+">', page)
    with np.load(out / "pairs_six.npz") as pairs:
        assert list(pairs["labels"]) == ["clear", "negative, compensated", "negative, mirror"]


def test_runs_with_toys_are_compared(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = [validate(home, name, monkeypatch) for name in ("a", "b")]
    table = compare.comparison_table(compare.load_runs(folders, None))
    assert "best J %" in table.columns
    last = dict(zip(table.columns, table.body[-1], strict=True))
    assert (last["condition"], last["payload bytes"], last["p"]) == ("negative, mirror", "7", "1.000")


@pytest.mark.parametrize(
    ("override", "toy"),
    [
        ("OBFUSCATION.KINDS={none: 1}", "negative"),
        ("COMPENSATION.FORM=none", "subtract"),
        ("SERVER.NAME=none", "toy_server"),
    ],
)
def test_errors_of_the_configuration_list_them(
    tmp_path: Path, tiny_set: TinySet, toys: None, override: str, toy: str
) -> None:
    values: dict[str, Any] = {
        "DATA_ROOT": "images", "INDEX_ROOT": "index", "DATASETS": [{"name": tiny_set.name, "batch_size": 6}],
        "MODEL_ROOT": "out", "LOG_ROOT": "out", "LOGS": "out",
    }  # fmt: skip
    (tmp_path / "experiment.yaml").write_text(yaml.safe_dump(values))
    with pytest.raises(ValueError, match=rf"\b{toy}\b"):
        load_config(tmp_path / "experiment.yaml", [override])


def test_errors_of_the_command_line_list_them(
    toys: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for option, toy in (("--conditions", "mirror"), ("--obfuscations", "negative")):
        monkeypatch.setattr(sys, "argv", ["val_main.py", option, "none"])
        with pytest.raises(SystemExit):
            val_main.parse_arguments()
        assert toy in capsys.readouterr().err
