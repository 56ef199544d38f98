"""The client network as an ONNX file, for the runtimes of phones.

Its input `prepared` is what `Client.prepare` makes of images, its outputs `tap_1` to `tap_4` are the features as
they are sent: shuffled, pruned, quantised (step * code). The file holds the key.
"""

from __future__ import annotations

from pathlib import Path

import torch

from torchkit.client.model import EMBEDDING_TAP, TAP_NAMES, Client
from torchkit.util.files import atomic_write_bytes
from torchkit.util.onnx import trace_onnx
from torchkit.util.pixels import INPUT_SIZE_PX

INPUT = "prepared"
OUTPUTS = tuple(f"tap_{name}" for name in (*TAP_NAMES, EMBEDDING_TAP))
"""The last one if an embedding is sent."""


def export_onnx(client: Client, path: Path) -> None:
    """Write `client`, which is switched to evaluation and must be on the CPU, as ONNX; any batch size fits.

    Raises:
        ValueError: the package onnx is missing.
    """
    try:
        import onnx
    except ImportError as error:
        raise ValueError(f"to write ONNX the package onnx is needed ({error}): pip install onnx") from error
    outputs = OUTPUTS[: len(client.feature_shapes)]
    example = torch.zeros(2, client.input_channels, INPUT_SIZE_PX, INPUT_SIZE_PX)
    model = onnx.load_from_string(trace_onnx(client.eval(), (example,), [INPUT], outputs, any_batch=True))
    for output, shape in zip(model.graph.output, client.feature_shapes, strict=True):
        for side, size in zip(output.type.tensor_type.shape.dim[1:], shape, strict=True):
            side.dim_value = size  # tracing does not know that resizing and shuffling give fixed sizes
    onnx.checker.check_model(model, full_check=True)
    atomic_write_bytes(path, model.SerializeToString())
