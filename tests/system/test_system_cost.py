"""The costs of client and server: MobileFaceNet's by hand, the other networks' by their segments."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from parties import DIFFERENCE, FLOAT, OWN_SHAPES, QUANTISED
from torch.nn.modules.batchnorm import _BatchNorm

from torchkit.backbone import get_model
from torchkit.client import Client, ClientSettings
from torchkit.server import Recogniser
from torchkit.system import ProFaceC, SystemCost, system_cost
from torchkit.util.cost import Cost, count_multiply_adds

CLIENT_CHANNELS = (64, 128, 128, 512)
SEGMENTS = {
    "mobilefacenet": (40.2, 74.7, 96.1, 9.9, 0.3),
    "dlib_resnet": (92.1, 79.9, 51.9, 45.7, 1.2),
    "ir_18": (830.9, 584.5, 584.5, 584.5, 12.8),
}
"""Millions of multiply-adds up to each tap, and of the rest."""


def mobilefacenet_multiply_adds() -> list[int]:
    """Of the five segments, from the network's table (Chen et al., CCBR 2018), for a 112x112 face."""

    def bottleneck(size: int, narrow: int, wide: int, wider: int, stride: int = 1) -> int:
        """1x1 convolution at the size that comes in, depth-wise 3x3 and 1x1 convolution at the one that goes out."""
        return (size * stride) ** 2 * narrow * wide + size**2 * (wide * 9 + wide * wider)

    return [
        56**2 * (3 * 64 * 9) + 56**2 * (64 * 9) + bottleneck(28, 64, 128, 64, stride=2),
        4 * bottleneck(28, 64, 128, 64) + bottleneck(14, 64, 256, 128, stride=2),
        6 * bottleneck(14, 128, 256, 128) + bottleneck(7, 128, 512, 128, stride=2),
        2 * bottleneck(7, 128, 256, 128) + 7**2 * 128 * 512,
        7**2 * 512 + 512 * 512,
    ]


def make_system(server: str, settings: ClientSettings) -> ProFaceC:
    recogniser = Recogniser(server)
    settings = replace(settings, server_shapes=tuple(recogniser.backbone.tap_shapes()))
    return ProFaceC(Client(settings, 3), recogniser)


def interfaces_multiply_adds(settings: ClientSettings) -> int:
    """Of the 1x1 convolutions, at the client's resolution, of those taps that are sent."""
    sizes = (28, 14, 7, 7)
    shapes = zip(CLIENT_CHANNELS, settings.server_shapes, sizes, settings.pruned_channels, strict=True)
    return sum(channels * shape[0] * size**2 for channels, shape, size, pruned in shapes if pruned < 1)


@pytest.mark.parametrize("name", SEGMENTS)
@torch.no_grad()
def test_segments_of_networks(name: str) -> None:
    network = get_model(name).eval()
    x = torch.zeros(1, 3, 112, 112)
    counts = []
    for segment in range(5):
        counts.append(count_multiply_adds(lambda y, segment=segment: network.run_segment(segment, y), x))
        x = network.run_segment(segment, x)
    assert [round(count / 1e6, 1) for count in counts] == list(SEGMENTS[name])
    assert sum(counts) == count_multiply_adds(network, torch.zeros(1, 3, 112, 112))
    if name == "mobilefacenet":
        assert counts == mobilefacenet_multiply_adds()


@pytest.mark.parametrize(("settings", "runs"), [(QUANTISED, 1), (DIFFERENCE, 2)], ids=["once", "twice"])
def test_client_and_server_are_counted_as_they_run(settings: ClientSettings, runs: int) -> None:
    system = make_system("mobilefacenet", settings)
    measured = system_cost(system)
    backbone = mobilefacenet_multiply_adds()
    assert measured.client.multiply_adds == runs * sum(backbone[:4]) + interfaces_multiply_adds(settings)
    assert measured.server.multiply_adds == sum(backbone)
    assert measured.client.parameters == sum(p.numel() for p in system.client.parameters())
    compensation = sum(c * h * w for c, h, w in OWN_SHAPES)
    assert measured.server.parameters == sum(p.numel() for p in system.recogniser.parameters()) + compensation


def test_measuring_leaves_the_system_as_it_is() -> None:
    system = make_system("mobilefacenet", FLOAT).train()
    before = {name: tensor.clone() for name, tensor in system.state_dict().items()}
    random_state = torch.get_rng_state()
    system_cost(system)
    assert system.client.training
    assert all(norm.training for norm in system.client.modules() if isinstance(norm, _BatchNorm))
    assert all(torch.equal(tensor, before[name]) for name, tensor in system.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random_state)


@pytest.mark.timed
def test_both_parties_are_timed_in_both_runtimes() -> None:
    measured = system_cost(make_system("mobilefacenet", FLOAT))
    for party in (measured.client, measured.server):
        assert party.latency_ms > 0
        assert party.onnx_latency_ms is not None and party.onnx_latency_ms > 0


def cost_of(multiply_adds: int) -> Cost:
    return Cost(multiply_adds, 1, 1.0, None)


def test_client_up_to_half_of_its_server_draws_no_warning() -> None:
    assert SystemCost(cost_of(50), cost_of(100)).warning() is None


def test_heavier_client_draws_a_warning_that_says_how_heavy() -> None:
    warning = SystemCost(cost_of(442_000_000), cost_of(221_000_000)).warning()
    assert warning is not None
    assert "200% of its server (442.0 of 221.0 million multiply-adds a face), more than half" in warning
    assert "BACKBONE_NAME" in warning
