"""Client files: round trip, other files, and published client state dicts against a naive re-derivation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchkit.backbone import get_model
from torchkit.client import Client, ClientSettings
from torchkit.server import Recogniser
from torchkit.system import (
    ProFaceC,
    ServerReference,
    build_system,
    load_client_file,
    save_client_file,
)
from torchkit.util.weights import load_weights_file, save_weights_file

OWN_SHAPES = ((64, 28, 28), (128, 14, 14), (128, 7, 7), (512, 7, 7))  # of a MobileFaceNet as the server
IR_SHAPES = ((64, 56, 56), (128, 28, 28), (256, 14, 14), (512, 7, 7))
REFERENCE = ServerReference("mobilefacenet", Path("/weights/server.pth"), "bgr")
SETTINGS = ClientSettings(OWN_SHAPES, channel_order="bgr", shuffle_taps=(1, 2), shuffle_block_px=7)


@pytest.fixture(scope="module")
def recogniser() -> Recogniser:
    torch.manual_seed(1)
    return Recogniser("mobilefacenet")


@pytest.fixture(scope="module")
def big_recogniser() -> Recogniser:
    """The kind of server that published clients were trained for, in the colour order that they were."""
    torch.manual_seed(1)
    return Recogniser("ir_18", "rgb")


@pytest.fixture
def system(recogniser: Recogniser) -> ProFaceC:
    return trained_system(recogniser)


@pytest.fixture(scope="module")
def contents(recogniser: Recogniser, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a good client file holds."""
    path = tmp_path_factory.mktemp("contents") / "client.pth"
    save_client_file(path, trained_system(recogniser), REFERENCE, 0)
    return load_weights_file(path)


@pytest.fixture
def pair(make_image: Callable[[int], np.ndarray]) -> tuple[Tensor, Tensor]:
    """Two images, and two others in the place of obfuscated ones."""
    images = torch.from_numpy(np.stack([make_image(seed).transpose(2, 0, 1) for seed in range(4)]))
    return images[:2], images[2:]


def trained_system(recogniser: Recogniser) -> ProFaceC:
    made = ProFaceC(Client(SETTINGS, key_seed=11), recogniser)
    randomise(made.client.state_dict())
    randomise(made.server.compensation.state_dict())
    return made.eval()


def randomise(state: dict[str, Tensor]) -> None:
    """New values, as after a training, for all but keys and counters."""
    for name, tensor in state.items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 2)
        elif tensor.is_floating_point():
            tensor.normal_(0.1, min(1.0, (2 / max(1, tensor[0].numel())) ** 0.5))


def embed(system: ProFaceC, pair: tuple[Tensor, Tensor]) -> Tensor:
    with torch.no_grad():
        return system(*pair)


# Files of this project


def test_client_file_brings_the_same_embedding(
    system: ProFaceC, recogniser: Recogniser, pair: tuple[Tensor, Tensor], tmp_path: Path
) -> None:
    path = tmp_path / "client.pth"
    save_client_file(path, system, REFERENCE, trained_steps=123)
    file = load_client_file(path)
    assert file.settings == SETTINGS
    assert file.server == REFERENCE
    assert file.trained_steps == 123
    again = build_system(file, recogniser, str(path))
    assert not again.client.training
    assert torch.equal(embed(again, pair), embed(system, pair))
    assert torch.equal(again.client.shuffles["1"].key, system.client.shuffles["1"].key)


def test_server_reference_may_be_empty(system: ProFaceC, tmp_path: Path) -> None:
    save_client_file(tmp_path / "client.pth", system, ServerReference(None, None), 0)
    assert load_client_file(tmp_path / "client.pth").server == ServerReference(None, None, "auto")


def test_equal_weights_give_equal_bytes(system: ProFaceC, recogniser: Recogniser, tmp_path: Path) -> None:
    save_client_file(tmp_path / "one.pth", system, REFERENCE, 5)
    again = build_system(load_client_file(tmp_path / "one.pth"), recogniser, "one.pth")
    (tmp_path / "folder").mkdir()
    save_client_file(tmp_path / "folder" / "another_name.pth", again, REFERENCE, 5)
    data = (tmp_path / "one.pth").read_bytes()
    assert (tmp_path / "folder" / "another_name.pth").read_bytes() == data
    with torch.no_grad():
        again.client.interfaces[0].bias[0] += 1
    save_client_file(tmp_path / "other.pth", again, REFERENCE, 5)
    assert (tmp_path / "other.pth").read_bytes() != data


def test_memory_layout_does_not_show_in_the_bytes(system: ProFaceC, tmp_path: Path) -> None:
    """Training keeps networks channels-last; the weights are the same."""
    save_client_file(tmp_path / "plain.pth", system, REFERENCE, 5)
    system.to(memory_format=torch.channels_last)
    save_client_file(tmp_path / "channels_last.pth", system, REFERENCE, 5)
    assert (tmp_path / "channels_last.pth").read_bytes() == (tmp_path / "plain.pth").read_bytes()


def test_client_file_holds_no_weight_of_the_recogniser(system: ProFaceC, tmp_path: Path) -> None:
    save_client_file(tmp_path / "client.pth", system, REFERENCE, 0)
    contents = load_weights_file(tmp_path / "client.pth")
    held = sum(t.nbytes for group in ("client", "compensation") for t in contents[group].values())
    own = sum(t.nbytes for m in system.trained_modules().values() for t in m.state_dict().values())
    assert held == own
    assert (tmp_path / "client.pth").stat().st_size < own + 200_000  # 64 bytes and more for each tensor's record


def test_another_server_is_a_clear_error(system: ProFaceC, big_recogniser: Recogniser, tmp_path: Path) -> None:
    save_client_file(tmp_path / "client.pth", system, REFERENCE, 0)
    with pytest.raises(ValueError) as error:
        build_system(load_client_file(tmp_path / "client.pth"), big_recogniser, "client.pth")
    for part in ("client.pth was trained for a server with maps", "(64, 28, 28)", "ir_18", "(64, 56, 56)", "--server"):
        assert part in str(error.value)


def test_damaged_weights_are_named(system: ProFaceC, recogniser: Recogniser, tmp_path: Path) -> None:
    with torch.no_grad():
        system.server.compensation.weights[2][0] = torch.nan
    save_client_file(tmp_path / "client.pth", system, REFERENCE, 0)
    with pytest.raises(ValueError, match=r"client\.pth, compensation: weights\.2 holds NaN"):
        build_system(load_client_file(tmp_path / "client.pth"), recogniser, "client.pth")


@pytest.mark.parametrize(
    "contents", [{"a": torch.ones(1)}, [1, 2], {"state_dict": {}}, 5, {"format": "other"}], ids=str
)
def test_another_file_is_a_clear_error(tmp_path: Path, contents: Any) -> None:
    save_weights_file(tmp_path / "other.pth", contents)
    with pytest.raises(
        ValueError, match=r"other\.pth is no client file: expected one written by train\.py, or a published"
    ):
        load_client_file(tmp_path / "other.pth")


def test_weights_of_a_recogniser_are_no_client_file(tmp_path: Path) -> None:
    save_weights_file(tmp_path / "net.pth", get_model("mobilefacenet").state_dict())
    with pytest.raises(ValueError, match="is no client file"):
        load_client_file(tmp_path / "net.pth")


def test_missing_file_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"client file not found: .*gone\.pth"):
        load_client_file(tmp_path / "gone.pth")


def test_a_later_version_is_a_clear_error(contents: dict[str, Any], tmp_path: Path) -> None:
    save_weights_file(tmp_path / "later.pth", {**contents, "version": 99})
    with pytest.raises(ValueError, match=r"later\.pth has version 99; this program reads version 1"):
        load_client_file(tmp_path / "later.pth")


@pytest.mark.parametrize("key", ["version", "settings", "client", "compensation", "server", "trained_steps"])
@pytest.mark.parametrize("value", ["missing", 3, "text", [1], {}], ids=str)
def test_incomplete_client_file_is_a_clear_error(
    contents: dict[str, Any], recogniser: Recogniser, tmp_path: Path, key: str, value: Any
) -> None:
    changed = {**contents, key: value}
    if value == "missing":
        del changed[key]
    save_weights_file(tmp_path / "damaged.pth", changed)
    if key == "trained_steps" and value == 3:
        assert load_client_file(tmp_path / "damaged.pth").trained_steps == 3
        return
    with pytest.raises(ValueError, match=r"damaged\.pth"):
        build_system(load_client_file(tmp_path / "damaged.pth"), recogniser, str(tmp_path / "damaged.pth"))


@pytest.mark.parametrize(
    "change",
    [
        {"layout": "other"},
        {"backbone": "other"},
        {"backbone": 3},
        {"channel_order": "grb"},
        {"shuffle_taps": [5]},
        {"shuffle_taps": [0]},
        {"shuffle_block_px": 0},
        {"server_shapes": [[64, 28]]},
        {"server_shapes": [[64, 28, 28]]},
        {"unknown": 1},
    ],
    ids=str,
)
def test_settings_that_cannot_be_built_are_a_clear_error(
    contents: dict[str, Any], recogniser: Recogniser, tmp_path: Path, change: dict[str, Any]
) -> None:
    path = tmp_path / "damaged.pth"
    save_weights_file(path, {**contents, "settings": {**contents["settings"], **change}})
    with pytest.raises(ValueError, match=r"damaged\.pth"):
        build_system(load_client_file(path), recogniser, str(path))


# Published files

POSITIONAL = {
    "conv1": "input_layer",
    "conv2_dw": "body_0",
    "conv_23": "body_1",
    "conv_3": "body_2",
    "conv_34": "body_3",
    "conv_4": "body_4",
    "conv_45": "body_5",
    "conv_5": "body_6",
    "conv_6_sep": "body_7",
    "output_layer": "output_layer",
}
TAP_CHANNELS = (64, 128, 128, 512)


def published_state(positional: bool, bias: bool = True) -> dict[str, Tensor]:
    """A client state dict as published, with random weights."""
    rng = np.random.default_rng(0)
    state: dict[str, Tensor] = {}
    for tap, (shape, channels) in enumerate(zip(IR_SHAPES, TAP_CHANNELS, strict=True), start=1):
        state[f"weight{tap}"] = torch.randn(shape)
        state[f"interface_{tap}.1.weight"] = torch.randn(shape[0], channels, 1, 1) / channels**0.5
        if bias:
            state[f"interface_{tap}.1.bias"] = torch.randn(shape[0])
    backbone = get_model("mobilefacenet").state_dict()
    randomise(backbone)
    for name, tensor in backbone.items():
        module, _, rest = name.partition(".")
        state[f"client_backbone.{POSITIONAL[module] if positional else module}.{rest}"] = tensor
    state["channel_permutations"] = torch.from_numpy(np.stack([rng.permutation(64) for _ in range(784)]))
    return state


def naive_published_embedding(
    state: dict[str, Tensor], server: nn.Module, clear: Tensor, obfuscated: Tensor, positional: bool
) -> Tensor:
    """The published system from its state dict: RGB, features resized first, 28-pixel blocks, first four rows."""
    backbone = get_model("mobilefacenet").eval()
    names = (
        {new: old for old, new in POSITIONAL.items()} if positional else dict(zip(POSITIONAL, POSITIONAL, strict=True))
    )
    own = {}
    for name, tensor in state.items():
        if name.startswith("client_backbone."):
            module, _, rest = name.removeprefix("client_backbone.").partition(".")
            own[f"{names[module]}.{rest}"] = tensor
    backbone.load_state_dict(own)

    x = clear.float() / 127.5 - obfuscated.float() / 127.5
    features = []
    for name, module in backbone.named_children():
        if name == "output_layer":
            break
        x = module(x)
        if name in ("conv_23", "conv_34", "conv_45", "conv_6_sep"):
            tap = len(features) + 1
            a = F.interpolate(x, size=IR_SHAPES[tap - 1][1:], mode="bilinear", align_corners=False)
            a = F.conv2d(a, state[f"interface_{tap}.1.weight"], state.get(f"interface_{tap}.1.bias"))
            features.append(a)
    mixed = torch.empty_like(features[0])
    for k, permutation in enumerate(state["channel_permutations"][:4]):
        top, left = k // 2 * 28, k % 2 * 28
        for c, source in enumerate(permutation.tolist()):
            cell = features[0][:, source, top : top + 28, left : left + 28]
            mixed[:, c, top : top + 28, left : left + 28] = cell
    features[0] = mixed

    s = server.input_layer(obfuscated.float() / 127.5 - 1)
    for number, unit in enumerate(server.body):
        s = unit(s)
        if number in (1, 3, 5, 7):
            tap = (1, 3, 5, 7).index(number)
            s = s + 1 / (1 + torch.exp(-s)) * features[tap] * state[f"weight{tap + 1}"]
    embedding = server.output_layer(s)
    return embedding / embedding.norm(dim=1, keepdim=True)


@pytest.mark.parametrize("positional", [False, True], ids=["TFace names", "positional names"])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
def test_published_client_gives_the_published_embedding(
    big_recogniser: Recogniser, pair: tuple[Tensor, Tensor], tmp_path: Path, positional: bool, bias: bool
) -> None:
    state = published_state(positional, bias)
    torch.save(state, tmp_path / "published.pth")

    file = load_client_file(tmp_path / "published.pth")
    system = build_system(file, big_recogniser, "published.pth")
    found = embed(system, pair)

    with torch.no_grad():
        expected = naive_published_embedding(state, big_recogniser.backbone, *pair, positional)
        plain = big_recogniser(pair[1])
    assert (expected - plain).abs().max() > 0.01, "the features must matter"
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_published_client_is_read_into_the_published_layout(big_recogniser: Recogniser, tmp_path: Path) -> None:
    state = published_state(positional=True)
    torch.save(state, tmp_path / "published.pth")
    file = load_client_file(tmp_path / "published.pth")
    assert file.settings == ClientSettings(
        IR_SHAPES, layout="published", channel_order="rgb", shuffle_taps=(1,), shuffle_block_px=28
    )
    assert file.server == ServerReference(None, None, "rgb")
    system = build_system(file, big_recogniser, "published.pth")
    assert torch.equal(system.client.shuffles["1"].key, state["channel_permutations"][:4])
    for tap, weight in enumerate(system.server.compensation.weights, start=1):
        assert torch.equal(weight, state[f"weight{tap}"])


def test_published_client_can_be_saved_as_one_of_ours(
    big_recogniser: Recogniser, pair: tuple[Tensor, Tensor], tmp_path: Path
) -> None:
    torch.save(published_state(positional=True), tmp_path / "published.pth")
    system = build_system(load_client_file(tmp_path / "published.pth"), big_recogniser, "published.pth")
    save_client_file(tmp_path / "ours.pth", system, ServerReference("ir_18", None, "rgb"), 0)
    ours = build_system(load_client_file(tmp_path / "ours.pth"), big_recogniser, "ours.pth")
    assert torch.equal(embed(ours, pair), embed(system, pair))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weight3": None}, "weight3"),
        ({"interface_2.1.weight": None}, r"interfaces\.1\.weight"),
        ({"client_backbone.body_3.conv.conv.weight": None}, r"conv_34\.conv\.conv\.weight"),
        ({"weight2": torch.zeros(128, 14, 14)}, r"weights\.1 has shape \(128, 14, 14\)"),
        ({"channel_permutations": torch.zeros(784, 64, dtype=torch.int64)}, "no permutation"),
        ({"channel_permutations": torch.arange(64).repeat(2, 1)}, r"key has shape \(2, 64\), expected \(4, 64\)"),
        ({"channel_permutations": 3}, "published client, but damaged"),
        ({"interface_x.1.weight": torch.zeros(1)}, "published client, but damaged.*'x'"),
        ({"client_backbone.body_9.conv.weight": torch.zeros(1)}, "body_9"),
        ({"weight1": 3}, "published client, but damaged"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_damaged_published_client_is_a_clear_error(
    big_recogniser: Recogniser, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    state: dict[str, Any] = {**published_state(positional=True), **change}
    path = tmp_path / "damaged.pth"
    torch.save({key: value for key, value in state.items() if value is not None}, path)
    with pytest.raises(ValueError, match=message) as error:
        build_system(load_client_file(path), big_recogniser, str(path))
    assert "damaged.pth" in str(error.value)


def test_published_client_needs_a_server_with_its_maps(recogniser: Recogniser, tmp_path: Path) -> None:
    torch.save(published_state(positional=True), tmp_path / "published.pth")
    with pytest.raises(ValueError, match="was trained for a server with maps"):
        build_system(load_client_file(tmp_path / "published.pth"), recogniser, "published.pth")


def test_settings_are_part_of_the_file(system: ProFaceC, recogniser: Recogniser, tmp_path: Path) -> None:
    """Two clients that differ in the colour order alone must not read as the same."""
    other = ProFaceC(Client(replace(SETTINGS, channel_order="rgb"), key_seed=11), recogniser)
    other.client.load_state_dict(system.client.state_dict())
    save_client_file(tmp_path / "other.pth", other, REFERENCE, 0)
    assert load_client_file(tmp_path / "other.pth").settings.channel_order == "rgb"
