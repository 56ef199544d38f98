"""The networks by themselves: the server's speed beside that of a matrix product, the client's latency."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from benchmarks.harness import Comparison, Sizes, alternate, note, unchecked
from benchmarks.inputs import CLIENT, KEY_SEED, SEED, draw_images, load_server
from benchmarks.parts.messages import BITS, PRUNED_CHANNELS, SHAPES
from torchkit.client import Client, ClientSettings
from torchkit.util.cost import count_multiply_adds, measure_cost
from torchkit.util.device import computes_bf16
from torchkit.util.pixels import INPUT_SIZE_PX


def measure_matmul(folder: Path, sizes: Sizes, rounds: int) -> dict[str, dict[str, float]]:
    """GFLOP/s of the server's forward pass and of one matrix product, by precision."""
    precisions = {"float32": torch.float32}
    if computes_bf16(torch.device("cpu")):
        precisions["bf16"] = torch.bfloat16
    return {name: _utilisation(name, dtype, folder, sizes, rounds) for name, dtype in precisions.items()}


@torch.inference_mode()
def _utilisation(name: str, dtype: torch.dtype, folder: Path, sizes: Sizes, rounds: int) -> dict[str, float]:
    recogniser = load_server(folder, sizes).to(memory_format=torch.channels_last)  # as TrainTask keeps it
    images = torch.from_numpy(draw_images(sizes.batch_size, SEED))
    operations = 2 * count_multiply_adds(recogniser, images)
    side = sizes.matrix_side
    a, b = (torch.randn(side, side).to(dtype) for _ in range(2))

    def forward() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            recogniser(images)

    times = np.array(alternate(f"matmul, {name}", Comparison(lambda: a @ b, forward, unchecked), rounds))
    product, server = np.array([2 * side**3, operations]) / times.min(axis=0) / 1e9  # at their best, undisturbed
    return {
        "matrix_gflop_per_s": float(product),
        "server_gflop_per_s": float(server),
        "utilisation_percent": float(100 * server / product),
    }


def measure_client() -> dict[str, float]:
    """Milliseconds of the client network for one face, in PyTorch and in ONNX Runtime, both on torch's threads.

    Raises:
        ValueError: the packages onnx and onnxruntime are missing.
    """
    note("client: PyTorch and ONNX Runtime")
    settings = ClientSettings(SHAPES, CLIENT, bits=(BITS,) * len(SHAPES), pruned_channels=PRUNED_CHANNELS)
    client = Client(settings, KEY_SEED).eval()
    cost = measure_cost(client, torch.randn(1, client.input_channels, INPUT_SIZE_PX, INPUT_SIZE_PX))
    if cost.onnx_latency_ms is None:
        raise ValueError("the part `client` needs the packages onnx and onnxruntime: pip install them")
    ratio = cost.latency_ms / cost.onnx_latency_ms
    return {"torch_ms": cost.latency_ms, "onnxruntime_ms": cost.onnx_latency_ms, "ratio": ratio}
