"""timm's networks as backbones: the maps that timm itself gives, injection, clients, ONNX, what is refused."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import timm
import torch
import torch.nn.functional as F
import yaml
from conftest import TinySet
from torch import nn

from torchkit.backbone import Shape, canonical_name, get_model
from torchkit.backbone.recogniser_file import save_recogniser_file
from torchkit.client import Client, ClientSettings
from torchkit.client.onnx import INPUT, export_onnx
from torchkit.config import load_config
from torchkit.server import CompensatedServer, Recogniser, load_recogniser
from torchkit.server.fold import fold_batch_norms
from torchkit.system import load_client_file, restore_client
from torchkit.task import TrainTask

SMALL = ["test_resnet", "test_efficientnet", "mobilenetv4_conv_small_050", "test_convnext", "mambaout_femto"]
"""Chains as they are, flattened ones, other norms, maps that end in channels."""
SERVER_SHAPES = ((64, 28, 28), (128, 14, 14), (128, 7, 7), (512, 7, 7))  # of a MobileFaceNet


def shuffled_norms(network: nn.Module) -> nn.Module:
    """Statistics and weights, so that no batch norm is an identity."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.3, 0.3)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            if module.affine:
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.uniform_(module.bias, -0.3, 0.3)
    return network.eval()


def timms_own(name: str, donor: nn.Module, channels: int = 3) -> tuple[nn.Module, list[int]]:
    """timm's way to the maps, with the weights of `donor`, which come in the same order; and the maps' strides."""
    own = timm.create_model(name, features_only=True, in_chans=channels).eval()
    theirs = list(own.state_dict().values())
    with torch.no_grad():
        for mine, tensor in zip(donor.state_dict().values(), theirs, strict=False):
            assert mine.shape == tensor.shape
            tensor.copy_(mine)
    return own, own.feature_info.reduction()


@pytest.mark.parametrize("name", SMALL)
@torch.no_grad()
def test_taps_are_the_maps_that_timm_gives(name: str) -> None:
    network = shuffled_norms(get_model(f"timm/{name}"))
    own, strides = timms_own(name, network.body)
    x = torch.rand(2, 3, 112, 112) * 2 - 1
    maps = dict(zip(strides, own(x), strict=True))
    for stride, size, tap in zip((4, 8, 16, 32), (28, 14, 7, None), network.taps(x), strict=True):
        expected = maps[stride] if name != "mambaout_femto" else maps[stride].permute(0, 3, 1, 2)
        assert torch.equal(tap, expected)
        assert size is None or tuple(tap.shape[2:]) == (size, size)
    assert network.tap_shapes() == [tuple(tap.shape[1:]) for tap in network.taps(x)]


@torch.no_grad()
def test_embedding_is_a_weighted_sum_over_the_last_map() -> None:
    network = shuffled_norms(get_model("timm/test_resnet", 32))
    nn.init.uniform_(network.output_layer[4].running_mean, -0.1, 0.1)
    x = torch.rand(2, 3, 112, 112) * 2 - 1
    last = network.taps(x)[-1]
    conv, norm, _, linear, norm_1d = network.output_layer
    pooled = (last * conv.weight[:, 0]).sum(dim=(2, 3))
    pooled = (pooled - norm.running_mean) / (norm.running_var + 1e-5).sqrt() * norm.weight + norm.bias
    expected = (pooled @ linear.weight.t() - norm_1d.running_mean) / (norm_1d.running_var + 1e-5).sqrt()
    torch.testing.assert_close(network(x), expected, rtol=1e-4, atol=1e-4)
    assert network.embedding_size == 32


@pytest.mark.parametrize("name", ["test_resnet", "mambaout_femto"])
@torch.no_grad()
def test_segments_in_a_chain_are_the_forward_pass(name: str) -> None:
    network = get_model(f"timm/{name}").eval()
    x = torch.rand(1, 3, 112, 112) * 2 - 1
    state = x
    for index in range(5):
        state = network.run_segment(index, state)
        if index < 4:
            assert torch.equal(state, network.taps(x)[index])
    assert torch.equal(state, network(x))
    covered = {m for segment in network.segments() for part in segment for m in part.modules()}
    assert all(m in covered for m in network.modules() if next(m.parameters(recurse=False), None) is not None)


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet"])
@torch.no_grad()
def test_folding_keeps_the_embeddings_and_the_activations(name: str) -> None:
    network = shuffled_norms(get_model(f"timm/{name}"))
    x = torch.rand(2, 3, 112, 112) * 2 - 1
    expected = [*network.taps(x), network(x)]
    fold_batch_norms(network)
    assert type(network.output_layer[1]) is nn.Identity
    for one, other in zip(expected, [*network.taps(x), network(x)], strict=True):
        assert (one - other).abs().max() < 1e-5 * one.abs().max()


@torch.no_grad()
def test_batch_norms_are_plain() -> None:
    """What shares or freezes batch norms must not find activations in them."""
    for name in ("test_efficientnet", "mobilenetv4_conv_small_050"):
        norms = [m for m in get_model(f"timm/{name}").modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        assert {type(norm) for norm in norms} == {nn.BatchNorm2d, nn.BatchNorm1d}


# As clients


def client_of(name: str, given: str = "residual", taps: Sequence[Shape] = SERVER_SHAPES) -> Client:
    client = Client(ClientSettings(tuple(taps), backbone=f"timm/{name}", input=given), key_seed=1)
    shuffled_norms(client)
    return client


@pytest.mark.parametrize("name", ["test_resnet", "mobilenetv4_conv_small_050"])
@torch.no_grad()
def test_client_that_sees_both_starts_as_the_network_on_their_sum(name: str) -> None:
    client = client_of(name, "both")
    assert client.backbone.input_channels == 6
    plain = client_of(name)
    state = client.backbone.state_dict()
    stem = next(key for key, tensor in state.items() if tensor.dim() == 4)
    assert state[stem].shape[1] == 6
    plain.backbone.load_state_dict({**state, stem: state[stem][:, :3]})
    residual, obfuscated = torch.rand(2, 3, 112, 112) - 0.5, torch.rand(2, 3, 112, 112) * 2 - 1
    both = client.backbone.taps(torch.cat([residual, obfuscated], dim=1))
    for one, other in zip(both, plain.backbone.taps(residual + obfuscated), strict=True):
        assert (one - other).abs().max() < 1e-4 * one.abs().max()


def test_client_has_no_output_layer_and_features_of_the_servers_channels() -> None:
    client = client_of("test_resnet")
    assert not any("output_layer" in name for name, _ in client.named_parameters())
    assert client.feature_shapes == [(64, 28, 28), (128, 14, 14), (128, 7, 7), (512, 4, 4)]


def test_stem_of_several_branches_cannot_take_both_images() -> None:
    with pytest.raises(ValueError, match=r"timm/repvgg_a0 does not run on .* 6 channels .* CLIENT\.INPUT: residual"):
        client_of("repvgg_a0", "both")


def test_onnx_gives_the_clients_features(tmp_path: Path) -> None:
    client = client_of("mobilenetv4_conv_small_050")
    export_onnx(client, tmp_path / "client.onnx")
    runtime = onnxruntime.InferenceSession(tmp_path / "client.onnx", providers=["CPUExecutionProvider"])
    prepared = torch.randn(3, 3, 112, 112)
    with torch.inference_mode():
        expected = client(prepared)
    for ours, theirs in zip(expected, runtime.run(None, {INPUT: prepared.numpy()}), strict=True):
        np.testing.assert_allclose(theirs, ours.numpy(), rtol=0, atol=1e-5 * float(ours.abs().max()))


# Trained


@pytest.fixture
def experiment(tmp_path: Path, tiny_set: TinySet) -> Path:
    torch.save(get_model("mobilefacenet").state_dict(), tmp_path / "server.pth")
    values = {
        "DATA_ROOT": "images", "INDEX_ROOT": "index", "DATASETS": [{"name": tiny_set.name, "batch_size": 4}],
        "MODEL_ROOT": "out", "LOG_ROOT": "out/tensorboard", "LOGS": "out", "NUM_WORKERS": 0, "NUM_EPOCH": 1,
        "OPTIMIZER": "adamw", "SCHEDULE": "cosine", "LRS": [0.001], "SHUFFLE": {"SEED": 7},
        "CLIENT": {"INTERFACE": "random"}, "BACKBONE_NAME": "timm/mobilenetv4_conv_small_050",
        "SERVER": {"NAME": "mobilefacenet", "CHECKPOINT": "server.pth"},
    }  # fmt: skip
    path = tmp_path / "experiment.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def test_client_trains_and_its_file_brings_it_back(experiment: Path, tmp_path: Path) -> None:
    task = TrainTask(load_config(experiment))
    before = {name: parameter.detach().clone() for name, parameter in task.system.client.backbone.named_parameters()}
    task.run()
    assert task.step == 3
    after = dict(task.system.client.backbone.named_parameters())
    assert all(not torch.equal(after[name], tensor) for name, tensor in before.items() if tensor.dim() == 4)
    file = load_client_file(tmp_path / "out" / "client.pth")
    assert file.settings.backbone == "timm/mobilenetv4_conv_small_050"
    client, prepared = restore_client(file, "file"), torch.randn(1, 3, 112, 112)
    with torch.no_grad():
        for one, other in zip(client(prepared), task.system.client.eval()(prepared), strict=True):
            torch.testing.assert_close(one, other)


def test_client_starts_from_a_recogniser_of_its_kind(experiment: Path, tmp_path: Path) -> None:
    donor = get_model("timm/test_resnet")
    save_recogniser_file(tmp_path / "donor.pth", "timm/test_resnet", donor, "rgb", 5)
    overrides = ["BACKBONE_NAME=timm/test_resnet", f"CLIENT.INIT={tmp_path / 'donor.pth'}"]
    backbone = TrainTask(load_config(experiment, overrides)).system.client.backbone
    for name, tensor in backbone.state_dict().items():
        assert torch.equal(tensor, donor.state_dict()[name])


@torch.no_grad()
def test_recogniser_can_be_a_server(tmp_path: Path) -> None:
    """Written, read with the colours that the file says, and compensated: zero features change nothing, others do."""
    donor = shuffled_norms(get_model("timm/test_efficientnet"))
    save_recogniser_file(tmp_path / "server.pth", "timm/test_efficientnet", donor, "bgr", 5)
    recogniser = load_recogniser("timm/test_efficientnet", tmp_path / "server.pth")
    assert (recogniser.channel_order, Recogniser("timm/test_efficientnet").channel_order) == ("bgr", "rgb")
    images = torch.randint(0, 256, (2, 3, 112, 112), dtype=torch.uint8)
    expected = F.normalize(donor(images.flip(1).float() / 127.5 - 1))
    torch.testing.assert_close(recogniser(images), expected, rtol=1e-4, atol=1e-5)
    server = CompensatedServer(recogniser)
    zeros = [torch.zeros(2, *shape) for shape in donor.tap_shapes()]
    torch.testing.assert_close(server(images, zeros), recogniser(images))
    for tap in range(4):
        features = [torch.ones_like(zero) if index == tap else zero for index, zero in enumerate(zeros)]
        assert not torch.allclose(server(images, features), recogniser(images), atol=1e-3)


# Names


def test_name_is_known_whatever_its_case() -> None:
    assert canonical_name("TIMM/ResNet18") == "timm/resnet18"


def test_unknown_name_says_which_are_near_and_how_to_list_all() -> None:
    with pytest.raises(ValueError, match=r"'timm/resnet19'; the nearest are timm/resnet18, .*timm\.list_models\(\)"):
        get_model("timm/resnet19")
    with pytest.raises(ValueError, match=r"unknown backbone 'timm/qqqqqq'\. Known are timm/NAME"):
        get_model("timm/qqqqqq")
    with pytest.raises(ValueError, match=r"'mobilefacent'; did you mean 'mobilefacenet'.* timm/NAME for timm's"):
        get_model("mobilefacent")


@pytest.mark.parametrize("name", ["test_vit", "xception41"])
def test_network_that_is_no_chain_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=rf"timm/{name} is no chain of modules .* strides 4, 8, 16, 32"):
        get_model(f"timm/{name}")


def test_network_with_other_strides_is_refused() -> None:
    with pytest.raises(ValueError, match=r"timm/levit_conv_128s has maps at strides 16, 32, 64, .* at 4, 8, 16, 32"):
        get_model("timm/levit_conv_128s")


def test_network_that_needs_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match=r"timm/coatnet_pico_rw_224 does not run on an image of 112x112 pixels"):
        get_model("timm/coatnet_pico_rw_224")


def test_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ValueError, match=r"backbones called timm/\.\.\. need the package timm: pip install timm"):
        canonical_name("timm/resnet18")
