"""The client network: shapes in both layouts, what it holds, and that the layouts mean the same to the server."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from torchkit.backbone import get_model
from torchkit.client import Client, ClientSettings
from torchkit.server import CompensatedServer, CompensationSettings, Recogniser
from torchkit.system import ProFaceC
from torchkit.util.pixels import residual

IR_SHAPES = ((64, 56, 56), (128, 28, 28), (256, 14, 14), (512, 7, 7))
OWN_SHAPES = ((64, 28, 28), (128, 14, 14), (128, 7, 7), (512, 7, 7))  # a MobileFaceNet as the server
SETTINGS = ClientSettings(server_shapes=IR_SHAPES)
PUBLISHED = replace(SETTINGS, layout="published", shuffle_block_px=28)


def residuals(batch: int = 2) -> Tensor:
    return torch.rand(batch, 3, 112, 112, generator=torch.Generator().manual_seed(3)) * 4 - 2


def shapes_of(client: Client) -> list[tuple[int, ...]]:
    with torch.no_grad():
        return [tuple(feature.shape) for feature in client.eval()(residuals())]


def test_native_features_leave_at_the_clients_resolution() -> None:
    client = Client(SETTINGS)
    assert shapes_of(client) == [(2, 64, 28, 28), (2, 128, 14, 14), (2, 256, 7, 7), (2, 512, 7, 7)]
    assert client.feature_shapes == [(64, 28, 28), (128, 14, 14), (256, 7, 7), (512, 7, 7)]


def test_published_features_leave_at_the_servers_resolution() -> None:
    client = Client(PUBLISHED)
    assert shapes_of(client) == [(2, *shape) for shape in IR_SHAPES]
    assert sum(np.prod(shape) for shape in client.feature_shapes) == 376_320


@pytest.mark.parametrize("settings", [SETTINGS, PUBLISHED, replace(SETTINGS, server_shapes=OWN_SHAPES)])
def test_declared_shapes_are_those_of_the_features(settings: ClientSettings) -> None:
    client = Client(settings)
    assert shapes_of(client) == [(2, *shape) for shape in client.feature_shapes]


@pytest.mark.parametrize("backbone", ["mobilefacenet", "ir_18"])
def test_client_does_without_the_layers_after_its_last_tap(backbone: str) -> None:
    client = Client(replace(SETTINGS, backbone=backbone, shuffle_taps=()))
    whole = get_model(backbone)
    kept = {name for name in whole.state_dict() if not name.startswith("output_layer")}
    assert kept < set(whole.state_dict())
    assert {name for name in client.state_dict() if name.startswith("backbone.")} == {f"backbone.{n}" for n in kept}


def test_features_are_interfaces_over_taps_shuffled_by_the_key() -> None:
    client = Client(replace(SETTINGS, shuffle_taps=(1, 3), shuffle_block_px=7), key_seed=1).eval()
    with torch.no_grad():
        features = client(residuals())
        taps = client.backbone.taps(residuals())
        for index, (tap, feature) in enumerate(zip(taps, features, strict=True)):
            weight, bias = client.interfaces[index].weight[:, :, 0, 0], client.interfaces[index].bias
            expected = torch.einsum("oc,bchw->bohw", weight, tap) + bias.view(1, -1, 1, 1)
            if index in (0, 2):
                expected = shuffled(expected, client.state_dict()[f"shuffles.{index + 1}.key"], 7)
            torch.testing.assert_close(feature, expected, rtol=1e-4, atol=1e-5)


def shuffled(x: Tensor, key: Tensor, block_px: int) -> Tensor:
    out = torch.empty_like(x)
    columns = x.shape[3] // block_px
    for k, permutation in enumerate(key):
        top, left = k // columns * block_px, k % columns * block_px
        cell = np.s_[top : top + block_px, left : left + block_px]
        out[:, :, *cell] = x[:, permutation][:, :, *cell]
    return out


@pytest.mark.parametrize("tap", [2, 3, 4])
def test_layouts_give_the_server_the_same_maps(tap: int) -> None:
    """A 1x1 convolution and a resize commute, so the server may do the resizing. Tap 1 is shuffled, so not there."""
    native, published = twins(SETTINGS, PUBLISHED)
    server = CompensatedServer(Recogniser("ir_18"))
    torch.nn.init.normal_(server.compensation.weights[tap - 1])
    states = torch.randn(2, *IR_SHAPES[tap - 1])
    maps = []
    for client in (native, published):
        with torch.no_grad():
            feature = client(residuals())[tap - 1]
            aligned = server.recogniser.backbone.align(tap - 1, feature, states.shape[-2:])
            maps.append(server.compensation(tap - 1, states, aligned))
    assert (maps[0] - states).abs().max() > 0.1
    torch.testing.assert_close(*maps, rtol=0, atol=1e-5)


def test_layouts_give_the_same_embedding_without_shuffle(make_image: Callable[[int], np.ndarray]) -> None:
    native, published = twins(replace(SETTINGS, shuffle_taps=()), replace(PUBLISHED, shuffle_taps=()))
    clear, obfuscated = (torch.from_numpy(make_image(seed).transpose(2, 0, 1))[None] for seed in (0, 1))
    recogniser = Recogniser("ir_18")
    with torch.no_grad():
        first, second = (ProFaceC(client, recogniser).eval()(clear, obfuscated) for client in (native, published))
        plain = recogniser(obfuscated)
    assert (first - plain).abs().max() > 1e-3, "the features must matter"
    torch.testing.assert_close(first, second, rtol=0, atol=1e-5)


def twins(one: ClientSettings, other: ClientSettings) -> tuple[Client, Client]:
    """Two clients with the same weights."""
    first, second = Client(one, key_seed=0).eval(), Client(other, key_seed=0).eval()
    second.backbone.load_state_dict(first.backbone.state_dict())
    second.interfaces.load_state_dict(first.interfaces.state_dict())
    return first, second


def test_interfaces_that_start_at_zero_send_nothing_but_can_learn() -> None:
    client = Client(SETTINGS, key_seed=0).eval()
    client.start_interfaces("zero")
    with torch.no_grad():
        assert all((feature == 0).all() for feature in client(residuals()))
    sum(feature.sum() for feature in client(residuals())).backward()
    assert all((interface.weight.grad != 0).any() for interface in client.interfaces)


def test_interfaces_that_start_as_the_identity_send_the_taps() -> None:
    client = Client(replace(SETTINGS, server_shapes=OWN_SHAPES, shuffle_taps=()), key_seed=0).eval()
    client.start_interfaces("identity")
    with torch.no_grad():
        features, taps = client(residuals()), client.backbone.taps(residuals())
    assert torch.equal(features[0], taps[0])
    assert all(torch.equal(feature, tap) for feature, tap in zip(features[1:], taps[1:], strict=True))


def test_identity_leaves_channels_that_the_client_lacks_empty() -> None:
    client = Client(replace(SETTINGS, shuffle_taps=()), key_seed=0).eval()
    client.start_interfaces("identity")
    with torch.no_grad():
        feature, tap = client(residuals())[2], client.backbone.taps(residuals())[2]  # 256 channels from 128
    assert torch.equal(feature[:, :128], tap) and (feature[:, 128:] == 0).all()


def test_interfaces_can_start_at_random() -> None:
    client = Client(SETTINGS, key_seed=0)
    client.start_interfaces("zero")
    client.start_interfaces("random")
    for interface in client.interfaces:
        bound = interface.in_channels**-0.5  # PyTorch's default: uniform within it
        assert 0.9 * bound < interface.weight.abs().max() <= bound
        assert 0 < interface.bias.abs().max() <= bound


def test_key_comes_from_the_seed_or_the_operating_system() -> None:
    keys = [Client(SETTINGS, key_seed=seed).state_dict()["shuffles.1.key"] for seed in (5, 5, 6, None, None)]
    assert torch.equal(keys[0], keys[1])
    assert not torch.equal(keys[0], keys[2])
    assert not torch.equal(keys[3], keys[4])


def test_several_shuffled_taps_have_keys_of_their_own() -> None:
    client = Client(replace(SETTINGS, shuffle_taps=(3, 4), shuffle_block_px=7, server_shapes=OWN_SHAPES), key_seed=1)
    keys = [client.state_dict()[f"shuffles.{tap}.key"] for tap in (3, 4)]
    assert keys[0].shape == (1, 128) and keys[1].shape == (1, 512)


def test_key_is_no_parameter() -> None:
    assert not any("shuffles" in name for name, _ in Client(SETTINGS).named_parameters())


def test_settings_survive_a_weight_file() -> None:
    settings = replace(PUBLISHED, channel_order="bgr", shuffle_taps=(1, 2))
    stored = settings.as_dict()
    assert not any(isinstance(value, ClientSettings) for value in stored.values())
    assert ClientSettings.from_dict(stored) == settings


def test_block_that_does_not_divide_the_features_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"SHUFFLE\.BLOCK_PX = 9: the map is 28x28"):
        Client(replace(SETTINGS, shuffle_block_px=9))


@pytest.mark.parametrize("order", ["rgb", "bgr"])
def test_residual_is_clear_minus_obfuscated_in_the_clients_colour_order(order: str) -> None:
    rng = np.random.default_rng(0)
    clear, obfuscated = (rng.integers(0, 256, (2, 3, 112, 112), np.uint8) for _ in range(2))
    expected = clear.astype(np.float64) / 127.5 - obfuscated.astype(np.float64) / 127.5
    if order == "bgr":
        expected = expected[:, [2, 1, 0]]
    found = residual(torch.from_numpy(clear), torch.from_numpy(obfuscated), order)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("order", ["rgb", "bgr"])
def test_system_feeds_the_client_in_its_colour_order(order: str) -> None:
    client = Client(replace(SETTINGS, server_shapes=OWN_SHAPES, channel_order=order))
    system = ProFaceC(client, Recogniser("mobilefacenet")).eval()
    seen: list[Tensor] = []
    client.backbone.conv1.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].clone()))
    clear = torch.zeros(1, 3, 112, 112, dtype=torch.uint8)
    clear[:, 0] = 255  # red
    with torch.no_grad():
        system(clear, torch.zeros_like(clear))
    expected = torch.tensor([2.0, 0, 0] if order == "rgb" else [0, 0, 2.0])
    assert torch.equal(seen[0].mean(dim=(0, 2, 3)), expected)


def test_bilinear_resize_is_of_half_pixel_centres() -> None:
    """What `published` weights were trained with: 28 -> 56, a pixel is 3/4 of the near and 1/4 of the far one."""
    client = Client(replace(PUBLISHED, shuffle_taps=())).eval()
    with torch.no_grad():
        tap = client.backbone.taps(residuals())[0]
        found = client(residuals())[0]
        rows = doubled(doubled(tap, 2), 3)
        expected = F.conv2d(rows, client.interfaces[0].weight, client.interfaces[0].bias)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def doubled(x: Tensor, dim: int) -> Tensor:
    size = x.shape[dim]
    index = torch.arange(size)
    before = x.index_select(dim, (index - 1).clamp(min=0))
    after = x.index_select(dim, (index + 1).clamp(max=size - 1))
    both = torch.stack([0.75 * x + 0.25 * before, 0.75 * x + 0.25 * after], dim=dim + 1)
    return both.flatten(dim, dim + 1)


def test_input_of_both_starts_as_the_network_on_the_clear_image() -> None:
    both = Client(replace(SETTINGS, input="both", shuffle_taps=()), key_seed=1).eval()
    plain = Client(replace(SETTINGS, shuffle_taps=()), key_seed=1).eval()
    state = plain.backbone.state_dict()
    own = both.backbone.state_dict()
    both.backbone.load_state_dict({**state, "conv1.conv.weight": own["conv1.conv.weight"]})
    assert own["conv1.conv.weight"].shape[1] == 6
    both.backbone.conv1.conv.weight.data.copy_(state["conv1.conv.weight"].repeat(1, 2, 1, 1))
    clear, obfuscated = (torch.randint(0, 256, (2, 3, 112, 112), dtype=torch.uint8) for _ in range(2))
    with torch.no_grad():
        found = both.backbone.taps(both.prepare(clear, obfuscated))
        expected = plain.backbone.taps(clear.float() / 127.5 - 1)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_dlib_takes_no_second_image() -> None:
    with pytest.raises(ValueError, match="input 'both' with dlib_resnet"):
        ClientSettings(IR_SHAPES, backbone="dlib_resnet", input="both")


# The difference of two images' maps

DIFFERENCE = replace(SETTINGS, input="difference", shuffle_taps=())


def test_difference_is_that_of_the_networks_maps() -> None:
    client = Client(DIFFERENCE, key_seed=1).eval()
    client.start_interfaces("random")
    clear, obfuscated = (torch.randint(0, 256, (2, 3, 112, 112), dtype=torch.uint8) for _ in range(2))
    with torch.no_grad():
        found = client(client.prepare(clear, obfuscated))
        maps = [client.backbone.taps(image.float() / 127.5 - 1) for image in (clear, obfuscated)]
        for index, (a, b) in enumerate(zip(*maps, strict=True)):
            torch.testing.assert_close(found[index], client.interfaces[index](a - b), rtol=1e-3, atol=1e-4)


def test_where_nothing_was_removed_a_difference_sends_nothing() -> None:
    client = Client(DIFFERENCE, key_seed=1).eval()
    client.start_interfaces("identity")
    image = torch.randint(0, 256, (2, 3, 112, 112), dtype=torch.uint8)
    with torch.no_grad():
        assert not any(feature.any() for feature in client(client.prepare(image, image)))


@pytest.mark.parametrize("tap", [1, 2, 3, 4])
def test_added_differences_of_the_servers_own_network_restore_the_clear_embedding(tap: int) -> None:
    """With one tap's difference added, everything after that tap sees the clear image's map."""
    torch.manual_seed(tap)
    recogniser = Recogniser("mobilefacenet", "rgb")
    pruned = tuple(0.0 if index == tap else 1.0 for index in (1, 2, 3, 4))
    shapes = tuple(recogniser.backbone.tap_shapes())
    client = Client(replace(DIFFERENCE, server_shapes=shapes, pruned_channels=pruned), key_seed=1)
    client.start_interfaces("identity")
    state = recogniser.backbone.state_dict()
    client.backbone.load_state_dict({name: state[name] for name in client.backbone.state_dict()})
    client.set_progress(1, 1)
    system = ProFaceC(client, recogniser, CompensationSettings("add")).eval()
    clear, obfuscated = (torch.randint(0, 256, (2, 3, 112, 112), dtype=torch.uint8) for _ in range(2))
    with torch.no_grad():
        assert (recogniser(obfuscated) - recogniser(clear)).abs().max() > 1e-3
        torch.testing.assert_close(system(clear, obfuscated), recogniser(clear), rtol=0, atol=1e-5)


@pytest.mark.parametrize("frozen", [False, True])
def test_frozen_norms_keep_their_statistics_and_learn_their_factors(frozen: bool) -> None:
    client = Client(DIFFERENCE, key_seed=1)
    client.start_interfaces("random")
    if frozen:
        client.freeze_norms()
    client.eval()
    client.train()
    before = {name: value.clone() for name, value in client.state_dict().items() if "running" in name}
    clear, obfuscated = (torch.randint(0, 256, (2, 3, 112, 112), dtype=torch.uint8) for _ in range(2))
    client(client.prepare(clear, obfuscated))[0].square().mean().backward()
    after = client.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items()) is frozen
    assert client.backbone.conv1.bn.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("block_px", [7, 14])
def test_identity_undoes_the_key_where_one_block_is_shuffled(block_px: int) -> None:
    settings = replace(SETTINGS, shuffle_taps=(2,), shuffle_block_px=block_px)  # tap 2 is 14x14
    client = Client(settings, key_seed=1).eval()
    client.start_interfaces("identity")
    with torch.no_grad():
        feature, tap = client(residuals())[1], client.backbone.taps(residuals())[1]
    expected = tap
    if block_px == 7:  # four blocks share an interface: in each, a channel is the mean of what the four keys want
        key = client.state_dict()["shuffles.2.key"]
        mean = torch.stack([tap[:, permutation.argsort()] for permutation in key]).mean(0)
        expected = shuffled(mean, key, 7)
    torch.testing.assert_close(feature, expected, rtol=1e-4, atol=1e-5)
