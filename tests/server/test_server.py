"""The server: colour order, frozen recogniser, compensation formula, and where gradients go."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchkit.backbone import NETWORKS, get_model
from torchkit.client import Client, ClientSettings
from torchkit.server import (
    CompensatedServer,
    Compensation,
    CompensationSettings,
    Recogniser,
    load_recogniser,
)
from torchkit.system import ProFaceC
from torchkit.util.weights import save_weights_file

SHAPES = [(64, 28, 28), (128, 14, 14), (128, 7, 7), (512, 7, 7)]  # of a MobileFaceNet


@pytest.fixture
def images(make_image: Callable[[int], np.ndarray]) -> Tensor:
    return torch.from_numpy(np.stack([make_image(seed).transpose(2, 0, 1) for seed in (0, 1)]))


@pytest.fixture
def server() -> CompensatedServer:
    made = CompensatedServer(Recogniser("mobilefacenet"))
    for weight in made.compensation.weights:
        nn.init.normal_(weight)
    return made


def random_features() -> list[Tensor]:
    return [torch.randn(2, *shape) for shape in SHAPES]


class Recorder(nn.Module):
    """A first convolution that keeps its input."""

    def forward(self, x: Tensor) -> Tensor:
        self.seen = x
        return x.new_zeros(x.shape[0], 64, 56, 56)


# Colour order


@pytest.mark.parametrize(("order", "red"), [("rgb", 0), ("bgr", 2)])
@pytest.mark.parametrize("compensated", [False, True])
def test_red_reaches_the_network_where_it_expects_red(order: str, red: int, compensated: bool) -> None:
    recogniser = Recogniser("mobilefacenet", order)
    recorder = Recorder()
    recogniser.backbone.conv1.conv = recorder
    image = torch.zeros(2, 3, 112, 112, dtype=torch.uint8)
    image[:, 0] = 255
    with torch.no_grad():
        if compensated:
            CompensatedServer(recogniser)(image, random_features())
        else:
            recogniser(image)
    expected = torch.full((2, 3, 112, 112), -1.0)
    expected[:, red] = 1
    assert torch.equal(recorder.seen, expected)
    assert torch.equal(recogniser.prepare(image), expected)


def test_prepare_maps_grey_levels_to_minus_one_to_one() -> None:
    levels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(1, 3, 16, 16)
    found = Recogniser("mobilefacenet", "bgr").prepare(levels)[0, 0].flatten().double()
    np.testing.assert_allclose(found.numpy(), np.arange(256) / 127.5 - 1, atol=1e-7)


def test_prepare_leaves_the_image_as_it_is(images: Tensor) -> None:
    before = images.clone()
    for order in ("rgb", "bgr"):
        Recogniser("mobilefacenet", order).prepare(images)
    assert torch.equal(images, before)


def test_auto_takes_the_order_of_the_published_weights() -> None:
    assert {name: Recogniser(name).channel_order for name in ("mobilefacenet", "dlib_resnet", "ir_18")} == {
        "mobilefacenet": "bgr",
        "dlib_resnet": "rgb",
        "ir_18": "bgr",
    }
    assert all(kind.channel_order == "bgr" for name, kind in NETWORKS.items() if name.startswith("ir_"))


def test_unknown_order_is_an_error() -> None:
    with pytest.raises(ValueError, match="'grb': allowed are auto, rgb, bgr"):
        Recogniser("mobilefacenet", "grb")


# Frozen


def test_recogniser_is_frozen() -> None:
    recogniser = Recogniser("ir_18")
    assert not any(parameter.requires_grad for parameter in recogniser.parameters())
    assert not any(module.training for module in recogniser.modules())


@pytest.mark.parametrize("wrap", ["recogniser", "server", "system"])
def test_training_mode_does_not_reach_the_recogniser(wrap: str, server: CompensatedServer) -> None:
    recogniser = server.recogniser
    whole = {
        "recogniser": recogniser,
        "server": server,
        "system": ProFaceC(Client(ClientSettings(tuple(SHAPES))), recogniser),
    }[wrap]
    whole.train()
    assert not any(module.training for module in recogniser.modules())
    if wrap == "system":
        assert whole.client.training


def test_embedding_repeats_and_has_unit_length(images: Tensor) -> None:
    recogniser = Recogniser("ir_18").train()
    first, second = recogniser(images), recogniser(images)
    assert torch.equal(first, second)
    torch.testing.assert_close(first.norm(dim=1), torch.ones(2))
    assert first.shape == (2, recogniser.embedding_size) == (2, 512)


def test_one_image_at_a_time_gives_the_same(images: Tensor) -> None:
    recogniser = Recogniser("mobilefacenet")
    single = torch.cat([recogniser(images[:1]), recogniser(images[1:])])
    torch.testing.assert_close(recogniser(images), single, rtol=0, atol=1e-6)


# Compensation


def test_compensation_follows_its_formula() -> None:
    shapes = [(2, 4, 6), (3, 5, 2), (1, 3, 3), (4, 2, 2)]
    compensation = Compensation(shapes)
    assert [tuple(weight.shape) for weight in compensation.weights] == shapes
    for tap, shape in enumerate(shapes):
        nn.init.normal_(compensation.weights[tap])
        state, features = torch.randn(2, *shape), torch.randn(2, *shape)
        s, a, w = (t.detach().numpy().astype(np.float64) for t in (state, features, compensation.weights[tap]))
        expected = s + 1 / (1 + np.exp(-s)) * a * w
        np.testing.assert_allclose(compensation(tap, state, features).detach().numpy(), expected, rtol=1e-5, atol=1e-6)


def test_compensation_weights_start_at_one() -> None:
    assert all((weight == 1).all() for weight in Compensation(SHAPES).weights)


def naive_resize(x: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bilinear, half-pixel centres, (B, C, h, w) -> (B, C, height, width)."""
    out = np.empty((*x.shape[:2], height, width))
    for row in range(height):
        for column in range(width):
            y = max((row + 0.5) * x.shape[2] / height - 0.5, 0)
            z = max((column + 0.5) * x.shape[3] / width - 0.5, 0)
            top, left = int(y), int(z)
            bottom, right = min(top + 1, x.shape[2] - 1), min(left + 1, x.shape[3] - 1)
            v, u = y - top, z - left
            out[:, :, row, column] = (1 - v) * ((1 - u) * x[:, :, top, left] + u * x[:, :, top, right]) + v * (
                (1 - u) * x[:, :, bottom, left] + u * x[:, :, bottom, right]
            )
    return out


def test_server_is_the_backbone_with_each_map_compensated(server: CompensatedServer, images: Tensor) -> None:
    """Features at half the maps' size at taps 1 and 2, and at their size at 3 and 4."""
    features = [torch.randn(2, c, h // 2, w // 2) if h > 7 else torch.randn(2, c, h, w) for c, h, w in SHAPES]
    backbone = server.recogniser.backbone
    x = images.flip(1).float() / 127.5 - 1
    expected_maps = []
    with torch.no_grad():
        for tap, module in enumerate(
            [
                [backbone.conv1, backbone.conv2_dw, backbone.conv_23],
                [backbone.conv_3, backbone.conv_34],
                [backbone.conv_4, backbone.conv_45],
                [backbone.conv_5, backbone.conv_6_sep],
            ]
        ):
            s = nn.Sequential(*module)(x)
            a = torch.from_numpy(naive_resize(features[tap].numpy(), *s.shape[-2:])).float()
            x = s + 1 / (1 + torch.exp(-s)) * a * server.compensation.weights[tap]
            expected_maps.append(x)
        embedding = backbone.output_layer(x)
        maps, found = server.forward_intermediates(images, features)
        assert torch.equal(server(images, features), F.normalize(found))
    for one, other in zip(maps, expected_maps, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found, embedding, rtol=1e-4, atol=1e-4)


def test_no_features_leave_the_plain_recogniser(server: CompensatedServer, images: Tensor) -> None:
    with torch.no_grad():
        zero = [torch.zeros_like(feature) for feature in random_features()]
        assert torch.equal(server(images, zero), server.recogniser(images))
        assert not torch.equal(server(images, random_features()), server.recogniser(images))


def test_recogniser_traces_the_maps_that_are_compensated(server: CompensatedServer, images: Tensor) -> None:
    with torch.no_grad():
        maps, embedding = server.recogniser.forward_intermediates(images)
        zero = [torch.zeros_like(feature) for feature in random_features()]
        same_maps, _ = server.forward_intermediates(images, zero)
    assert [tuple(m.shape[1:]) for m in maps] == SHAPES
    assert all(torch.equal(a, b) for a, b in zip(maps, same_maps, strict=True))
    assert torch.equal(F.normalize(embedding), server.recogniser(images))


def test_features_of_one_image_do_not_reach_the_other(server: CompensatedServer, images: Tensor) -> None:
    features, others = random_features(), random_features()
    mixed = [torch.cat([f[:1], o[1:]]) for f, o in zip(features, others, strict=True)]
    with torch.no_grad():
        torch.testing.assert_close(server(images, features)[0], server(images, mixed)[0], rtol=0, atol=1e-6)


# Gradients


def test_no_graph_before_the_first_tap(
    server: CompensatedServer, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = server.recogniser.backbone
    needs: list[tuple[bool, bool]] = []
    run = backbone.run_segment

    def recorded(index: int, x: Tensor) -> Tensor:
        out = run(index, x)
        needs.append((x.requires_grad, out.requires_grad))
        return out

    monkeypatch.setattr(backbone, "run_segment", recorded)
    server(images, random_features())
    assert needs == [(False, False)] + [(True, True)] * 4


def test_gradient_reaches_client_and_compensation_but_not_the_recogniser(images: Tensor) -> None:
    client = Client(ClientSettings(tuple(SHAPES)), key_seed=0)
    system = ProFaceC(client, Recogniser("mobilefacenet")).train()
    before = {key: tensor.clone() for key, tensor in system.recogniser.state_dict().items()}
    system(images, images.flip(0))[:, 0].sum().backward()
    for name, module in system.trained_modules().items():
        for parameter_name, parameter in module.named_parameters():
            assert parameter.grad is not None, (name, parameter_name)
            assert torch.isfinite(parameter.grad).all(), (name, parameter_name)
        assert sum(float(p.grad.abs().sum()) for p in module.parameters()) > 0, name
    assert all(parameter.grad is None for parameter in system.recogniser.parameters())
    assert all(torch.equal(tensor, before[key]) for key, tensor in system.recogniser.state_dict().items())


def test_trained_modules_hold_all_that_learns() -> None:
    system = ProFaceC(Client(ClientSettings(tuple(SHAPES))), Recogniser("mobilefacenet"))
    trained = {id(p) for module in system.trained_modules().values() for p in module.parameters()}
    assert trained == {id(p) for p in system.parameters() if p.requires_grad}


# Loading


def test_unknown_name_lists_the_known_and_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'ir_1O1'; did you mean 'ir_101'") as error:
        load_recogniser("ir_1O1", tmp_path / "weights.pth")
    assert all(name in str(error.value) for name in NETWORKS)


def test_missing_checkpoint_says_where_to_get_it_and_what_to_change(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as error:
        load_recogniser("mobilefacenet", tmp_path / "gone.pth")
    message = str(error.value)
    for part in (
        str(tmp_path / "gone.pth"),
        "model/README.md",
        "mobilefacenet",
        "SERVER.CHECKPOINT",
        "--server-checkpoint",
    ):
        assert part in message


def test_weights_are_those_of_the_file(tmp_path: Path, images: Tensor) -> None:
    network = get_model("mobilefacenet").eval()
    save_weights_file(tmp_path / "weights.pth", network.state_dict())
    recogniser = load_recogniser("MobileFaceNet", tmp_path / "weights.pth", "rgb")
    with torch.no_grad():
        embedding = network(images.float() / 127.5 - 1)
    torch.testing.assert_close(recogniser(images), embedding / embedding.norm(dim=1, keepdim=True))
    assert not any(parameter.requires_grad for parameter in recogniser.parameters())


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    save_weights_file(tmp_path / "weights.pth", get_model("mobilefacenet").state_dict())
    with pytest.raises(
        ValueError, match=r"server checkpoint .*weights\.pth for ir_18 lacks key 'input_layer\.0\.weight'"
    ):
        load_recogniser("ir_18", tmp_path / "weights.pth")


@pytest.mark.parametrize("data", [b"", b"no weights\n"])
def test_damaged_checkpoint_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "weights.pth").write_bytes(data)
    with pytest.raises(ValueError, match=r"server checkpoint .*weights\.pth cannot be read"):
        load_recogniser("mobilefacenet", tmp_path / "weights.pth")


# Forms of the compensation


@pytest.mark.parametrize("form", ["gate", "add", "film"])
@pytest.mark.parametrize("weights_per", ["element", "channel"])
def test_each_form_is_its_formula(form: str, weights_per: str) -> None:
    torch.manual_seed(3)
    head = Compensation(SHAPES, CompensationSettings(form, weights_per))
    for parameter in head.parameters():
        nn.init.normal_(parameter)
    for tap, (channels, height, width) in enumerate(SHAPES):
        s, a = torch.randn(2, *SHAPES[tap]).double(), torch.randn(2, *SHAPES[tap]).double()
        w = head.weights[tap].double()
        assert w.shape == ((channels, height, width) if weights_per == "element" else (channels, 1, 1))
        if form == "gate":
            expected = s + a * w / (1 + torch.exp(-s))
        elif form == "add":
            expected = s + a * w
        else:
            expected = s * (1 + a * head.scales[tap].double()) + a * w
        torch.testing.assert_close(head(tap, s, a), expected)


@pytest.mark.parametrize("form", ["add", "film"])
def test_compensation_starts_as_plain_addition(form: str) -> None:
    s, a = torch.randn(2, *SHAPES[0]), torch.randn(2, *SHAPES[0])
    assert torch.equal(Compensation(SHAPES, CompensationSettings(form))(0, s, a), s + a)


@pytest.mark.parametrize("given", [("sum", "element"), ("gate", "pixel")])
def test_unknown_compensation_is_refused(given: tuple[str, str]) -> None:
    with pytest.raises(ValueError, match=r"allowed are gate, add, film|'element' or 'channel'"):
        CompensationSettings(*given)
