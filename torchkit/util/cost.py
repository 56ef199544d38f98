"""What a network costs for one face: multiply-adds, parameters, and latency in PyTorch and in ONNX Runtime."""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from torchkit.util.onnx import trace_onnx

MIN_RUNS = 3
MIN_SECONDS = 0.2
"""The timed runs last at least this long together."""

logger = logging.getLogger("torchkit")


@dataclass(frozen=True)
class Cost:
    """What a network costs for one face."""

    multiply_adds: int
    """Of convolutions, linear layers and matrix products, counted as they run."""
    parameters: int
    latency_ms: float
    """In PyTorch: float32, on the CPU, one face at a time, on torch's number of threads."""
    onnx_latency_ms: float | None
    """The same in ONNX Runtime; None without the packages onnx and onnxruntime, or where ONNX lacks an operation."""

    def __str__(self) -> str:
        onnx = "" if self.onnx_latency_ms is None else f", {self.onnx_latency_ms:.1f} ms in ONNX Runtime"
        return (
            f"{self.parameters:,} parameters, {self.multiply_adds / 1e6:,.1f} million multiply-adds a face, "
            f"{self.latency_ms:.1f} ms in PyTorch{onnx}"
        )


def measure_cost(network: nn.Module, *inputs: Any) -> Cost:
    """Measure what a network costs for one face, in evaluation mode and on the CPU.

    Args:
        network: called with `inputs`.
        inputs: tensors (1, ...) of one face, or lists of such.
    """
    assert not network.training
    with torch.inference_mode():
        return Cost(
            count_multiply_adds(network, *inputs),
            count_parameters(network),
            latency_ms(lambda: network(*inputs)),
            onnx_latency_ms(network, *inputs),
        )


@torch.no_grad()
def count_multiply_adds(network: Callable[..., Any], *inputs: Any) -> int:
    """Count the multiply-adds of convolutions, linear layers and matrix products in `network(*inputs)`.

    Norms, activations, sums and resizing are not counted: in face networks they are about one percent.
    """
    with FlopCounterMode(display=False) as counter:
        network(*inputs)
    return counter.get_total_flops() // 2  # a multiply-add is two floating-point operations


def count_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def latency_ms(work: Callable[[], Any]) -> float:
    """Measure the median time of `work` in milliseconds, after a warm-up."""
    work()
    times: list[float] = []
    while len(times) < MIN_RUNS or sum(times) < MIN_SECONDS:
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return 1000 * statistics.median(times)


def onnx_latency_ms(network: nn.Module, *inputs: Any) -> float | None:
    """Measure the latency in ONNX Runtime, on as many threads as torch has; None where it cannot be measured."""
    try:
        import onnx  # noqa: F401  (the exporter needs it)
        import onnxruntime
    except ImportError:
        return None
    arrays = {f"input_{number}": tensor.numpy() for number, tensor in enumerate(_tensors(inputs))}
    try:
        model = trace_onnx(network, inputs, list(arrays), [])
    except torch.onnx.errors.OnnxExporterError as error:
        logger.info("no latency in ONNX Runtime: %s", error)
        return None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except onnxruntime.capi.onnxruntime_pybind11_state.NotImplemented as error:  # e.g. a convolution in float64
        logger.info("no latency in ONNX Runtime: %s", error)
        return None
    used: dict[str, np.ndarray] = {node.name: arrays[node.name] for node in session.get_inputs()}
    return latency_ms(lambda: session.run(None, used))


def _tensors(inputs: Any) -> list[Tensor]:
    """All tensors in nested lists and tuples, in order."""
    return [inputs] if isinstance(inputs, Tensor) else [tensor for part in inputs for tensor in _tensors(part)]
