"""InsightFace's IResNet beside a naive one that works from arcface_torch's names, and how its weights are read."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchkit.backbone import get_model
from torchkit.backbone.iresnet import IResNet
from torchkit.backbone.recogniser_file import read_recogniser_weights
from torchkit.server import load_recogniser
from torchkit.server.fold import fold_batch_norms

State = dict[str, Tensor]
UNITS = {
    "iresnet_18": (2, 2, 2, 2),
    "iresnet_34": (3, 4, 6, 3),
    "iresnet_50": (3, 4, 14, 3),
    "iresnet_100": (3, 13, 30, 3),
    "iresnet_200": (6, 26, 60, 6),
}
STAGE_ENDS = {
    "iresnet_18": [1, 3, 5, 7],
    "iresnet_34": [2, 6, 12, 15],
    "iresnet_50": [2, 6, 20, 23],
    "iresnet_100": [2, 15, 45, 48],
    "iresnet_200": [5, 31, 91, 97],
}
WIDTHS = (64, 128, 256, 512)


def random_norm(name: str, channels: int) -> State:
    return {
        f"{name}.weight": torch.empty(channels).uniform_(0.5, 1.5),
        f"{name}.bias": torch.empty(channels).uniform_(-0.3, 0.3),
        f"{name}.running_mean": torch.empty(channels).uniform_(-0.3, 0.3),
        f"{name}.running_var": torch.empty(channels).uniform_(0.5, 1.5),
        f"{name}.num_batches_tracked": torch.tensor(7),
    }


def random_conv(name: str, inputs: int, outputs: int, kernel: int) -> State:
    return {f"{name}.weight": torch.randn(outputs, inputs, kernel, kernel) * (2 / (inputs * kernel**2)) ** 0.5}


def arcface_torch_state(units: tuple[int, ...]) -> State:
    """Random weights with the names and shapes of arcface_torch's files."""
    state = random_conv("conv1", 3, 64, 3) | random_norm("bn1", 64) | {"prelu.weight": torch.rand(64)}
    inputs = 64
    for stage, (count, width) in enumerate(zip(units, WIDTHS, strict=True), start=1):
        for unit in range(count):
            name = f"layer{stage}.{unit}"
            state |= random_norm(f"{name}.bn1", inputs) | random_conv(f"{name}.conv1", inputs, width, 3)
            state |= random_norm(f"{name}.bn2", width) | {f"{name}.prelu.weight": torch.rand(width)}
            state |= random_conv(f"{name}.conv2", width, width, 3) | random_norm(f"{name}.bn3", width)
            if unit == 0:
                state |= random_conv(f"{name}.downsample.0", inputs, width, 1)
                state |= random_norm(f"{name}.downsample.1", width)
            inputs = width
    state |= random_norm("bn2", 512) | {"fc.weight": torch.randn(512, 512 * 49) / 160, "fc.bias": torch.randn(512)}
    return state | random_norm("features", 512)


def norm(x: Tensor, state: State, name: str) -> Tensor:
    parts = (state[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
    mean, var, weight, bias = (part.view(1, -1, *[1] * (x.dim() - 2)) for part in parts)
    return (x - mean) / torch.sqrt(var + 1e-5) * weight + bias


def prelu(x: Tensor, slope: Tensor) -> Tensor:
    return torch.where(x > 0, x, slope.view(1, -1, 1, 1) * x)


def naive_iresnet(x: Tensor, state: State, units: tuple[int, ...]) -> tuple[list[Tensor], Tensor]:
    """Maps at the ends of the stages, and the embedding."""
    maps = []
    x = prelu(norm(F.conv2d(x, state["conv1.weight"], padding=1), state, "bn1"), state["prelu.weight"])
    for stage, count in enumerate(units, start=1):
        for unit in range(count):
            name = f"layer{stage}.{unit}"
            out = F.conv2d(norm(x, state, f"{name}.bn1"), state[f"{name}.conv1.weight"], padding=1)
            out = prelu(norm(out, state, f"{name}.bn2"), state[f"{name}.prelu.weight"])
            stride = 2 if unit == 0 else 1
            out = norm(F.conv2d(out, state[f"{name}.conv2.weight"], stride=stride, padding=1), state, f"{name}.bn3")
            if unit == 0:
                x = norm(F.conv2d(x, state[f"{name}.downsample.0.weight"], stride=2), state, f"{name}.downsample.1")
            x = out + x
        maps.append(x)
    flat = norm(x, state, "bn2").flatten(1)
    return maps, norm(flat @ state["fc.weight"].t() + state["fc.bias"], state, "features")


@pytest.fixture(scope="module")
def state() -> State:
    torch.manual_seed(0)
    return arcface_torch_state(UNITS["iresnet_18"])


@pytest.mark.parametrize("name", UNITS)
def test_names_and_shapes_are_those_of_arcface_torch(name: str) -> None:
    with torch.device("meta"):
        network, expected = get_model(name), arcface_torch_state(UNITS[name])
    found = {key: tensor.shape for key, tensor in network.state_dict().items()}
    assert found == {key: tensor.shape for key, tensor in expected.items()}


@pytest.mark.parametrize("name", UNITS)
def test_stages_end_where_the_server_is_tapped(name: str) -> None:
    with torch.device("meta"):
        network = get_model(name)
        shapes = network.tap_shapes()
    assert isinstance(network, IResNet)
    assert network.stage_ends() == STAGE_ENDS[name]
    lengths = [b - a for a, b in pairwise([-1, *STAGE_ENDS[name]])]
    assert [len(segment[-1]) for segment in network.segments()[:4]] == lengths
    assert shapes == [(64, 56, 56), (128, 28, 28), (256, 14, 14), (512, 7, 7)]


@torch.no_grad()
def test_taps_and_embedding_are_those_of_the_naive_network(state: State) -> None:
    network = get_model("iresnet_18").eval()
    network.load_state_dict(state)
    x = torch.rand(1, 3, 112, 112) * 2 - 1
    maps, embedding = naive_iresnet(x, state, UNITS["iresnet_18"])
    plain = [*network.taps(x), network(x)]
    fold_batch_norms(network)
    folded = [*network.taps(x), network(x)]
    for expected, *found in zip([*maps, embedding], plain, folded, strict=True):
        assert all((one - expected).abs().max() < 1e-4 * expected.abs().max() for one in found)
    # Left are the norms before a padded convolution, one a unit, and that of the output layer.
    assert sum(isinstance(module, nn.BatchNorm2d) for module in network.modules()) == 8 + 1


@torch.no_grad()
def test_file_of_arcface_torch_gives_its_embeddings_of_rgb(state: State, tmp_path: Path) -> None:
    torch.save(state, tmp_path / "backbone.pth")
    recogniser = load_recogniser("IResNet_18", tmp_path / "backbone.pth")
    images = torch.randint(0, 256, (1, 3, 112, 112), dtype=torch.uint8)
    _, embedding = naive_iresnet(images.float() / 127.5 - 1, state, UNITS["iresnet_18"])
    torch.testing.assert_close(recogniser(images), F.normalize(embedding), rtol=1e-3, atol=1e-4)


def test_state_is_found_under_the_names_of_a_run(tmp_path: Path) -> None:
    state = random_norm("bn1", 4)
    forms = {
        "parallel": {f"module.{key}": tensor for key, tensor in state.items()},
        "checkpoint": {"epoch": 3, "state_dict_backbone": state, "state_dict_softmax_fc": {"weight": torch.ones(3)}},
    }
    for name, contents in forms.items():
        torch.save(contents, tmp_path / name)
        found = read_recogniser_weights(tmp_path / name)
        assert list(found.state) == list(state) and found.network is None and found.channel_order is None
        assert all(torch.equal(found.state[key], tensor) for key, tensor in state.items())


def test_embeddings_norm_learns_its_shift_alone() -> None:
    features = get_model("iresnet_18").features
    assert not features.weight.requires_grad and features.bias.requires_grad


def test_prefix_of_some_names_stays(tmp_path: Path) -> None:
    torch.save({"module.a": torch.ones(1), "b": torch.ones(1)}, tmp_path / "mixed.pth")
    assert set(read_recogniser_weights(tmp_path / "mixed.pth").state) == {"module.a", "b"}
