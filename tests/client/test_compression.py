"""Quantisation and pruning of a whole client: off changes nothing, settings and configuration keys are checked."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import yaml
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from torchkit.backbone import get_model
from torchkit.client import Client, ClientSettings
from torchkit.client.shuffle import BlockChannelShuffle
from torchkit.config import Config, load_config, save_config

OWN_SHAPES = ((64, 28, 28), (128, 14, 14), (128, 7, 7), (512, 7, 7))  # of a MobileFaceNet as the server
OFF = ClientSettings(server_shapes=OWN_SHAPES)
EVERYTHING = replace(
    OFF,
    bits=(8, 4, 2, 1),
    pruned_channels=(0.25, 0.5, 0.0, 0.0),
    pruned_values=(0.5, 0.0, 0.25, 0.0),
)


def residuals() -> Tensor:
    return torch.rand(2, 3, 112, 112, generator=torch.Generator().manual_seed(3)) * 4 - 2


# Off


def test_a_client_without_compression_holds_what_it_always_held() -> None:
    whole = {f"backbone.{name}" for name in get_model("mobilefacenet").state_dict()}
    backbone = {name for name in whole if not name.startswith("backbone.output_layer")}
    interfaces = {f"interfaces.{tap}.{kind}" for tap in range(4) for kind in ("weight", "bias")}
    assert set(Client(OFF).state_dict()) == backbone | interfaces | {"shuffles.1.key"}


@pytest.mark.parametrize("mode", ["evaluation", "training"])
def test_a_client_without_compression_computes_what_it_always_did(mode: str) -> None:
    client = Client(OFF, key_seed=1).train(mode == "training")
    client.set_progress(1, 1)
    plain = get_model("mobilefacenet").train(mode == "training")
    state = client.state_dict()
    plain.load_state_dict({name: state.get(f"backbone.{name}", tensor) for name, tensor in plain.state_dict().items()})
    expected = []
    for tap, x in enumerate(plain.taps(residuals())):
        expected.append(F.conv2d(x, state[f"interfaces.{tap}.weight"], state[f"interfaces.{tap}.bias"]))
    expected[0] = BlockChannelShuffle(OWN_SHAPES[0], 14, state["shuffles.1.key"])(expected[0])
    for found, wanted in zip(client(residuals()), expected, strict=True):
        assert torch.equal(found, wanted)


def test_compression_before_its_ramp_computes_what_a_client_without_does() -> None:
    plain, compressed = Client(OFF, key_seed=1), Client(EVERYTHING, key_seed=1)
    missing, surplus = compressed.load_state_dict(plain.state_dict(), strict=False)
    assert not surplus and all(name.startswith(("pruners.", "quantisers.")) for name in missing)
    for training in (False, True):
        compressed.train(training).set_progress(0, 0)
        for found, wanted in zip(compressed(residuals()), plain.train(training)(residuals()), strict=True):
            assert torch.equal(found, wanted)


# On


def test_compression_reaches_the_taps_it_is_for() -> None:
    client = Client(EVERYTHING, key_seed=1)
    assert {name: quantiser.bits for name, quantiser in client.quantisers.items()} == {"1": 8, "2": 4, "3": 2, "4": 1}
    shares = {name: (pruner.channel_share, pruner.value_share) for name, pruner in client.pruners.items()}
    assert shares == {"1": (0.25, 0.5), "2": (0.5, 0.0), "3": (0.0, 0.25)}
    assert not Client(replace(EVERYTHING, bits=(32,) * 4)).quantisers


def pruned_to(shares: tuple[float, ...], settings: ClientSettings = OFF) -> Client:
    """A client of which pruning has come to its end."""
    client = Client(replace(settings, pruned_channels=shares), key_seed=1).eval()
    client.set_progress(1, 1)
    return client


def multiply_adds(client: Client) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        client(torch.zeros(1, client.input_channels, 112, 112))
    return counter.get_total_flops() // 2


def test_a_client_runs_no_further_than_the_last_tap_that_it_sends() -> None:
    network = get_model("mobilefacenet").eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network.taps(torch.zeros(1, 3, 112, 112), 2)
    interface = 128 * 128 * 14 * 14
    assert multiply_adds(pruned_to((1.0, 0.0, 1.0, 1.0))) == counter.get_total_flops() // 2 + interface
    assert multiply_adds(pruned_to((1.0,) * 4)) == 0


@pytest.mark.parametrize("source", ["residual", "both", "difference"])
def test_features_are_the_same_whether_or_not_later_taps_are_sent(source: str) -> None:
    settings = replace(OFF, input=source)
    early, whole = pruned_to((0.0, 1.0, 0.0, 1.0), settings), Client(settings, key_seed=1).eval()
    whole.load_state_dict(early.state_dict(), strict=False)
    prepared = torch.rand(2, whole.input_channels, 112, 112, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        found, expected = early(prepared), whole(prepared)
    assert early.sent_taps() == [1, 3]
    assert torch.equal(found[0], expected[0]) and torch.equal(found[2], expected[2])
    assert [feature.shape for feature in found] == [feature.shape for feature in expected]
    assert not found[1].any() and not found[3].any()


def test_a_tap_is_computed_until_its_pruning_has_come_to_its_end() -> None:
    client = Client(replace(OFF, pruned_channels=(0.0, 0.0, 0.0, 1.0)), key_seed=1)
    assert client.sent_taps() == [1, 2, 3, 4]
    client.set_progress(1, 0)
    assert client.sent_taps() == [1, 2, 3]


def test_progress_reaches_all_taps() -> None:
    client = Client(EVERYTHING, key_seed=1).train()
    client.set_progress(pruning=1, quantisation=1)
    with torch.no_grad():
        features = client(residuals())
    gone = [int((feature == 0).all(dim=(0, 2, 3)).sum()) for feature in features]
    assert gone[:2] == [64 * 0.25, 128 * 0.5]
    sent = features[0][:, ~(features[0] == 0).all(dim=(0, 2, 3))]
    assert (sent == 0).float().mean().item() >= 0.5  # values that were pruned, and those that quantise to zero
    for bits, feature in zip((4, 2, 1), features[1:], strict=True):
        assert 2 ** (bits - 1) < len(feature.unique()) <= 2**bits
    client.set_progress(pruning=1, quantisation=0)
    with torch.no_grad():
        assert len(client(residuals())[3].unique()) > 1000


def test_compressed_client_learns_through_it() -> None:
    client = Client(EVERYTHING, key_seed=1).train()
    client.set_progress(pruning=0.5, quantisation=1)
    sum(feature.square().sum() for feature in client(residuals())).backward()
    first = next(client.backbone.parameters())
    assert first.grad is not None and (first.grad != 0).any()
    assert all(quantiser.log_step.grad.abs() > 0 for quantiser in client.quantisers.values())
    assert all((pruner.importance > 0).any() for pruner in client.pruners.values())


# Settings


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"backbone": "mobilefacenett"}, r"unknown backbone 'mobilefacenett'; did you mean 'mobilefacenet'\?"),
        ({"layout": "other"}, "layout 'other': allowed are native, published"),
        ({"channel_order": "grb"}, "channel order 'grb': allowed are rgb, bgr"),
        ({"input": "sum"}, "input 'sum': allowed are residual, both"),
        ({"server_shapes": OWN_SHAPES[:3]}, "3 server maps: expected 4"),
        ({"shuffle_taps": (0,)}, r"shuffle of taps \[0\].*allowed are taps 1\.\.4"),
        ({"shuffle_taps": (1, 5)}, r"shuffle of taps \[1, 5\].*allowed are taps 1\.\.4"),
        ({"shuffle_block_px": 0}, "blocks of 0 pixels: .*blocks from 1"),
        ({"bits": (2, 2, 2)}, r"bits \[2, 2, 2\]: expected 4 numbers, one a tap"),
        ({"pruned_channels": (0.5,)}, r"pruned_channels \[0\.5\]: expected 4 numbers"),
        ({"pruned_values": (0.0,) * 5}, r"pruned_values \[.*\]: expected 4 numbers"),
        ({"bits": (2, 3, 2, 2)}, r"bits \[2, 3, 2, 2\]: allowed are 1, 2, 4, 8 and 32"),
        ({"bits": (0, 2, 2, 2)}, "allowed are 1, 2, 4, 8 and 32"),
        ({"pruned_channels": (0.0, -0.1, 0.0, 0.0)}, r"pruned_channels \[0\.0, -0\.1.*shares from 0"),
        ({"pruned_channels": (0.0, 0.0, 0.0, 1.1)}, "shares from 0"),
        ({"pruned_values": (float("nan"), 0.0, 0.0, 0.0)}, "shares from 0"),
        ({"pruned_values": (50.0, 0.0, 0.0, 0.0)}, r"values \[50\.0.*shares from 0"),
        ({"bits": (1,) * 4, "pruned_values": (0.0, 0.0, 0.5, 0.0)}, "codes of 1 bit have no zero.*prune channels"),
        ({"image_quality": -1}, r"image quality -1: allowed are 0\.\.100, or none"),
        ({"image_quality": 101}, "image quality 101"),
    ],
    ids=str,
)
def test_settings_that_make_no_sense(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(OFF, **change)


def test_settings_at_their_limits() -> None:
    limits = replace(OFF, pruned_channels=(0, 1, 0.0, 1.0), pruned_values=(1.0, 0, 1, 0.0), image_quality=0)
    assert replace(limits, image_quality=100).image_quality == 100
    assert replace(OFF, bits=(1,) * 4, pruned_channels=(0.5,) * 4).bits == (1, 1, 1, 1)


# Configuration

SMALLEST = {
    "DATA_ROOT": "images",
    "INDEX_ROOT": "index",
    "DATASETS": [{"name": "train"}],
    "MODEL_ROOT": "out",
    "LOG_ROOT": "out",
    "LOGS": "out",
}


def configured(folder: Path, **groups: Any) -> Config:
    path = folder / "experiment.yaml"
    path.write_text(yaml.safe_dump({**SMALLEST, **groups}))
    return load_config(path)


def test_a_number_counts_for_all_taps(tmp_path: Path) -> None:
    config = configured(tmp_path, QUANTIZE={"BITS": 4}, PRUNE={"CHANNELS": 0.5, "VALUES": 0})
    assert config.QUANTIZE.BITS == (4, 4, 4, 4)
    assert config.PRUNE.CHANNELS == (0.5,) * 4 and config.PRUNE.VALUES == (0,) * 4


def test_a_list_has_a_number_a_tap(tmp_path: Path) -> None:
    config = configured(
        tmp_path, QUANTIZE={"BITS": [1, 2, 8, 32], "RAMP_EPOCHS": 0.5}, PRUNE={"VALUES": [0, 0.1, 0.2, 1]}
    )
    assert config.QUANTIZE.BITS == (1, 2, 8, 32)
    assert (config.QUANTIZE.START_EPOCH, config.QUANTIZE.RAMP_EPOCHS) == (0, 0.5)
    assert config.PRUNE.VALUES == (0, 0.1, 0.2, 1)


def test_compression_is_off_by_default(tmp_path: Path) -> None:
    config = configured(tmp_path)
    assert config.QUANTIZE.BITS == (32,) * 4
    assert config.PRUNE.CHANNELS == config.PRUNE.VALUES == (0,) * 4


def test_saved_compression_loads_to_an_equal_one(tmp_path: Path) -> None:
    config = configured(tmp_path, QUANTIZE={"BITS": [2, 2, 4, 32]}, PRUNE={"CHANNELS": 0.25})
    save_config(config, tmp_path / "saved.yaml")
    assert load_config(tmp_path / "saved.yaml") == config


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ({"QUANTIZE": {"BITS": 3}}, r"QUANTIZE\.BITS: \[3\.0, .*allowed are 1, 2, 4, 8 and 32"),
        ({"QUANTIZE": {"BITS": [2, 2, 2, 2.5]}}, r"QUANTIZE\.BITS: .*2\.5.*allowed are 1, 2, 4, 8 and 32"),
        ({"QUANTIZE": {"BITS": [2, 2]}}, r"QUANTIZE\.BITS"),
        ({"QUANTIZE": {"BITS": "few"}}, r"QUANTIZE\.BITS\.0 = 'few'"),
        ({"QUANTIZE": {"START_EPOCH": -1}}, r"QUANTIZE\.START_EPOCH = -1"),
        ({"QUANTIZE": {"RAMP_EPOCHS": -0.5}}, r"QUANTIZE\.RAMP_EPOCHS = -0\.5"),
        ({"QUANTIZE": {"BIT": 3}}, r"unknown key QUANTIZE\.BIT; did you mean BITS\?"),
        ({"PRUNE": {"CHANNELS": 1.5}}, r"PRUNE\.CHANNELS: \[1\.5, .*shares from 0"),
        ({"PRUNE": {"VALUES": [0, 0, 0, -0.1]}}, r"PRUNE\.VALUES: .*-0\.1.*shares from 0"),
        ({"PRUNE": {"VALUES": [0, 0, 0, 0, 0]}}, r"PRUNE\.VALUES"),
        ({"PRUNE": {"RAMP_EPOCHS": -1}}, r"PRUNE\.RAMP_EPOCHS = -1"),
        ({"QUANTIZE": {"CODING": "huffman"}}, r"QUANTIZE\.CODING = 'huffman'"),
        ({"QUANTIZE": {"EMBEDDING_BITS": 3}}, r"QUANTIZE\.EMBEDDING_BITS: .*allowed are 1, 2, 4, 8 and 32"),
        ({"DISTILLATION": {"MAP_WEIGHT": 1, "MAP_EPOCHS": 1}, "PRUNE": {"CHANNELS": 1}}, r"MAP_EPOCHS = 1 with PRUNE"),
    ],
    ids=str,
)
def test_bad_keys_are_named_with_what_is_allowed(tmp_path: Path, groups: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        configured(tmp_path, **groups)
