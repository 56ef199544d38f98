"""util/cost.py against counts by hand, with and without ONNX Runtime."""

from __future__ import annotations

import math
import sys
import time

import pytest
import torch
from torch import Tensor, nn

from torchkit.util import cost
from torchkit.util.cost import Cost, count_multiply_adds, count_parameters, measure_cost

# Taken before the fixture that spares all other tests the timing.
latency_ms, onnx_latency_ms = cost.latency_ms, cost.onnx_latency_ms


class Branches(nn.Module):
    """Two inputs, one of them a list, as a server has."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2)
        self.linear = nn.Linear(6 * 16, 5)

    def forward(self, image: Tensor, features: list[Tensor]) -> Tensor:
        x = self.convolution(image) + features[0]
        return self.linear(torch.relu(x).flatten(1)) @ features[1]


INPUTS = torch.zeros(1, 4, 8, 8), [torch.zeros(1, 6, 4, 4), torch.zeros(5, 7)]
CONVOLUTION = (6 * 4 * 4) * (4 // 2 * 3 * 3)
LINEAR, PRODUCT = 5 * 6 * 16, 5 * 7


@pytest.mark.parametrize("context", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_multiply_adds_are_those_of_the_formula(context: type[torch.no_grad]) -> None:
    with context():
        assert count_multiply_adds(Branches().eval(), *INPUTS) == CONVOLUTION + LINEAR + PRODUCT


def test_every_face_of_a_batch_is_counted() -> None:
    convolution = nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2)
    assert count_multiply_adds(convolution, torch.zeros(2, 4, 8, 8)) == 2 * CONVOLUTION


def test_parameters() -> None:
    assert count_parameters(Branches()) == 6 * 2 * 9 + 6 + 5 * 96 + 5


@pytest.mark.timed
def test_cost_of_a_network_with_several_inputs() -> None:
    measured = measure_cost(Branches().eval(), *INPUTS)
    assert measured.multiply_adds == CONVOLUTION + LINEAR + PRODUCT
    assert 0 < measured.latency_ms < 1000
    assert measured.onnx_latency_ms is not None and 0 < measured.onnx_latency_ms < 1000


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_no_onnx_latency_without_the_packages(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    assert onnx_latency_ms(Branches().eval(), *INPUTS) is None


def test_no_onnx_latency_of_what_onnx_lacks() -> None:
    class Fourier(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.fft.fft2(x).real

    assert onnx_latency_ms(Fourier().eval(), torch.zeros(1, 3, 8, 8)) is None


def test_latency_is_a_median_after_a_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "MIN_SECONDS", 0.0)
    waits = iter([1.0, 0.01, 0.03, 0.5])  # the warm-up, then three runs
    clock = [0.0]

    def work() -> None:
        clock[0] += next(waits)

    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    assert math.isclose(latency_ms(work), 30.0)


def test_cost_in_words() -> None:
    assert str(Cost(221_161_984, 1_211_076, 29.14, 11.26)) == (
        "1,211,076 parameters, 221.2 million multiply-adds a face, 29.1 ms in PyTorch, 11.3 ms in ONNX Runtime"
    )
    assert str(Cost(5, 3, 2.0, None)) == "3 parameters, 0.0 million multiply-adds a face, 2.0 ms in PyTorch"
