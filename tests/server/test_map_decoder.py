"""The decoder of a bottleneck: its formula, how it starts, and where it stands in the server."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchkit.backbone import get_model
from torchkit.client import Client, ClientSettings
from torchkit.client.encoder import fingerprint
from torchkit.server import CompensatedServer, Compensation, CompensationSettings, Recogniser, load_recogniser
from torchkit.server.map_decoder import MapDecoder, integer_factor
from torchkit.system import (
    ProFaceC,
    ServerReference,
    build_system,
    load_client_file,
    load_server_file,
    save_client_file,
    save_server_file,
)
from torchkit.util.weights import save_weights_file

SHAPES = ((64, 28, 28), (128, 14, 14), (128, 7, 7), (512, 7, 7))  # of a MobileFaceNet
SETTINGS = ClientSettings(
    server_shapes=SHAPES, backbone="strided_encoder", input="clear", bottleneck=(24, 0, 0, 0), shuffle_taps=(),
    pruned_channels=(0, 1, 1, 1),
)  # fmt: skip


def prelu(x: Tensor, slope: Tensor) -> Tensor:
    return x.clamp(min=0) + slope.view(1, -1, 1, 1) * x.clamp(max=0)


def random_decoder(blocks: int = 0) -> MapDecoder:
    torch.manual_seed(0)
    decoder = MapDecoder(5, (14, 14), (6, 28, 28), width=4, blocks=blocks)
    for parameter in decoder.parameters():
        nn.init.normal_(parameter)
    for module in decoder.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return decoder.eval()


@torch.no_grad()
@pytest.mark.parametrize("blocks", [0, 2])
def test_decoder_is_its_formula(blocks: int) -> None:
    decoder = random_decoder(blocks)
    features, state = torch.randn(2, 5, 14, 14), torch.randn(2, 6, 28, 28)
    convolved = decoder.upsample[1](F.conv2d(features, decoder.upsample[0].weight, padding=1))  # (2, 4 * 4, 14, 14)
    upsampled = convolved.view(2, 4, 2, 2, 14, 14).permute(0, 1, 4, 2, 5, 3).reshape(2, 4, 28, 28)
    torch.testing.assert_close(decoder.upsample(features), upsampled)
    side = F.conv2d(decoder.norm(state), decoder.side.weight, decoder.side.bias)
    hidden = prelu(upsampled + side, decoder.activation.weight)
    first, norm, activation, *residual = decoder.body
    hidden = prelu(norm(F.conv2d(hidden, first.weight, padding=1)), activation.weight)
    assert len(residual) == blocks
    for block in residual:
        one, norm_1, slope, two, norm_2 = block.body
        inner = prelu(norm_1(F.conv2d(hidden, one.weight, padding=1)), slope.weight)
        hidden = prelu(hidden + norm_2(F.conv2d(inner, two.weight, padding=1)), block.activation.weight)
    expected = F.conv2d(hidden, decoder.out.weight, decoder.out.bias) * decoder.norm.running_var.sqrt().view(
        1, -1, 1, 1
    )
    torch.testing.assert_close(decoder(decoder.upsample(features), state), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("size", "target", "factor"), [((14, 14), (28, 28), 2), ((7, 7), (28, 28), 4), ((14, 14), (14, 14), 1),
                                   ((14, 14), (35, 35), 1), ((28, 28), (14, 14), 1), ((7, 14), (28, 28), 1)],
)  # fmt: skip
def test_integer_factor(size: tuple[int, int], target: tuple[int, int], factor: int) -> None:
    assert integer_factor(size, target) == factor


def test_a_bottleneck_starts_as_if_nothing_was_sent() -> None:
    torch.manual_seed(0)
    system = ProFaceC(Client(SETTINGS), Recogniser("mobilefacenet"), CompensationSettings("add")).eval()
    clear, obfuscated = torch.randint(0, 256, (2, 2, 3, 112, 112), dtype=torch.uint8)
    system.client.set_progress(1, 1)
    with torch.no_grad():
        torch.testing.assert_close(system(clear, obfuscated), system.recogniser(obfuscated))


def test_training_reaches_encoder_and_decoder_through_the_first_tap_alone() -> None:
    torch.manual_seed(0)
    system = ProFaceC(Client(SETTINGS), Recogniser("mobilefacenet"), CompensationSettings("add")).train()
    decoder = system.server.compensation.decoders["1"]
    nn.init.normal_(decoder.out.weight)
    system.client.set_progress(1, 1)
    clear, obfuscated = torch.randint(0, 256, (2, 2, 3, 112, 112), dtype=torch.uint8)
    system.server.taps(obfuscated, system.features(clear, obfuscated), 1)[0].square().mean().backward()
    assert all(parameter.grad is not None for parameter in decoder.parameters())
    reached = {name for name, parameter in system.client.named_parameters() if parameter.grad is not None}
    assert {"backbone.stem.0.weight", "backbone.stride_8.0.weight", "interfaces.0.weight"} <= reached


def test_features_of_another_size_are_aligned_after_they_are_decoded() -> None:
    """14x14 features go four times into maps of 56x56, by pixel shuffle, and not into those of 35x35."""
    head = Compensation([(8, 56, 56), (8, 35, 35)], CompensationSettings("add", "channel"), [(3, 14, 14), (3, 14, 14)])
    assert head.prepare(0, torch.randn(2, 3, 14, 14)).shape == (2, 64, 56, 56)
    assert head.prepare(1, torch.randn(2, 3, 14, 14)).shape == (2, 64, 14, 14)


def test_channels_of_the_map_need_no_decoder() -> None:
    assert not CompensatedServer(Recogniser("mobilefacenet"), feature_shapes=SHAPES).compensation.decoders
    shapes = [(16, 14, 14), *SHAPES[1:]]
    assert set(CompensatedServer(Recogniser("mobilefacenet"), feature_shapes=shapes).compensation.decoders) == {"1"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bottleneck": (64, 0, 0, 0)}, r"tap 1 has 64 channels at the server; allowed are 1\.\.63, and 0 for none"),
        ({"bottleneck": (24, 0, 0)}, r"bottleneck \[24, 0, 0\]: expected 4 numbers, one a tap"),
        ({"layout": "published"}, r"with layout 'published': .* take layout 'native'"),
    ],
)
def test_impossible_bottlenecks_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(SETTINGS, **change)  # type: ignore[arg-type]


def test_what_leaves_a_bottleneck_has_the_deviation_1() -> None:
    torch.manual_seed(0)
    client = Client(SETTINGS).train()
    images = torch.randint(0, 256, (8, 3, 112, 112), dtype=torch.uint8)
    features = client(client.prepare(images, images))[0]
    assert features.shape == (8, 24, 14, 14)
    torch.testing.assert_close(features.std((0, 2, 3), correction=0), torch.ones(24), rtol=1e-3, atol=1e-3)


def test_the_input_clear_does_not_see_the_obfuscated_image() -> None:
    client = Client(SETTINGS)
    clear, obfuscated = torch.randint(0, 256, (2, 2, 3, 112, 112), dtype=torch.uint8)
    prepared = client.prepare(clear, obfuscated)
    torch.testing.assert_close(prepared, clear / 127.5 - 1)
    assert torch.equal(prepared, client.prepare(clear, clear))


def test_files_bring_the_decoder_back(tmp_path: Path) -> None:
    """A client file and a server file give the embeddings of the system that wrote them."""
    torch.manual_seed(0)
    save_weights_file(tmp_path / "recogniser.pth", get_model("mobilefacenet").state_dict())
    recogniser = load_recogniser("mobilefacenet", tmp_path / "recogniser.pth")
    system = ProFaceC(Client(SETTINGS), recogniser, CompensationSettings("add", decoder_width=16, decoder_blocks=1))
    system.client.set_progress(1, 1)
    nn.init.normal_(system.eval().server.compensation.decoders["1"].out.weight)
    reference = ServerReference("mobilefacenet", tmp_path / "recogniser.pth", "auto")
    save_client_file(tmp_path / "client.pth", system, reference, 1)
    restored = build_system(load_client_file(tmp_path / "client.pth"), recogniser, "client.pth")
    name = fingerprint(system.client)
    save_server_file(tmp_path / "server.pth", system.server, system.client.feature_shapes, name)
    server = load_server_file(tmp_path / "server.pth").server
    clear, obfuscated = torch.randint(0, 256, (2, 2, 3, 112, 112), dtype=torch.uint8)
    with torch.no_grad():
        expected = system(clear, obfuscated)
        assert (expected - recogniser(obfuscated)).abs().max() > 0.01, "features must matter"
        assert torch.equal(restored(clear, obfuscated), expected)
        assert torch.equal(server(obfuscated, system.features(clear, obfuscated)), expected)
