"""The client as ONNX beside the client itself."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from parties import BOTH, DIFFERENCE, FLOAT, QUANTISED, trained_client

import torchkit.commands.client as client_command
from torchkit.client import Client, ClientSettings
from torchkit.client.onnx import INPUT, OUTPUTS, export_onnx
from torchkit.system import ServerReference, save_phone_file

PUBLISHED = ClientSettings(
    ((64, 56, 56), (128, 28, 28), (256, 14, 14), (512, 7, 7)), layout="published", shuffle_block_px=28
)
ATOL = 1e-4
FLIPPED_SHARE = 1e-3
"""Of the quantised features, how many may have a neighbouring code: those that lie between two codes."""


def session(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def check(client: Client, runtime: onnxruntime.InferenceSession, batch: int) -> None:
    """Compare what both make of random inputs."""
    generator = torch.Generator().manual_seed(batch)
    prepared = torch.randn(batch, client.input_channels, 112, 112, generator=generator)
    with torch.inference_mode():
        expected = [feature.numpy() for feature in client(prepared)]
    found = runtime.run(None, {INPUT: prepared.numpy()})
    for tap, (ours, theirs) in enumerate(zip(expected, found, strict=True), start=1):
        assert theirs.dtype == np.float32 and theirs.shape == ours.shape
        assert len(np.unique(ours)) > 1 or not client.pruners[str(tap)].keep.any()
        if str(tap) not in client.quantisers:
            np.testing.assert_allclose(theirs, ours, rtol=0, atol=ATOL)
            continue
        step = client.quantisers[str(tap)].step.item()
        neighbours = step * (2 if client.quantisers[str(tap)].bits == 1 else 1)
        apart = np.abs(theirs - ours)
        flipped = apart > ATOL * step
        assert flipped.mean() <= FLIPPED_SHARE
        np.testing.assert_allclose(apart[flipped], neighbours, rtol=1e-3)


@pytest.mark.parametrize(
    "settings",
    [QUANTISED, BOTH, DIFFERENCE, PUBLISHED],
    ids=["quantised", "both inputs, pruned and quantised", "difference of two images", "published layout"],
)
def test_any_batch_gives_the_clients_features(settings: ClientSettings, tmp_path: Path) -> None:
    client = trained_client(settings)
    export_onnx(client, tmp_path / "client.onnx")
    runtime = session(tmp_path / "client.onnx")
    (given,) = runtime.get_inputs()
    assert (given.name, given.shape) == (INPUT, ["batch", client.input_channels, 112, 112])
    declared = [(output.name, output.shape) for output in runtime.get_outputs()]
    shapes = zip(OUTPUTS, client.feature_shapes, strict=False)
    assert declared == [(name, ["batch", *shape]) for name, shape in shapes]
    for batch in (1, 3):
        check(client, runtime, batch)


def test_command_takes_a_phone_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Here of a client that was stored before the ramp, and sends floats."""
    client = trained_client(QUANTISED)
    client.set_progress(0, 0)
    save_phone_file(tmp_path / "phone.pth", client, ServerReference("mobilefacenet", None), 0)
    parsed = client_command.parse_arguments(["onnx", str(tmp_path / "phone.pth"), "-o", str(tmp_path / "new/c.onnx")])
    parsed.run(parsed)
    assert str(tmp_path / "new/c.onnx") in capsys.readouterr().out
    plain = trained_client(replace(QUANTISED, bits=FLOAT.bits))
    check(plain, session(tmp_path / "new/c.onnx"), 1)


def test_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ValueError, match=r"the package onnx is needed .*: pip install onnx"):
        export_onnx(trained_client(FLOAT), tmp_path / "client.onnx")
    assert not (tmp_path / "client.onnx").exists()
