"""Networks as ONNX, by PyTorch's tracing exporter."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

OPSET = 17
"""Version of ONNX's operators: it has all that are needed, and runtimes from 2022 on support it."""


@torch.no_grad()
def trace_onnx(
    network: nn.Module,
    inputs: tuple[Any, ...],
    input_names: Sequence[str],
    output_names: Sequence[str],
    any_batch: bool = False,
) -> bytes:
    """Trace `network`, in evaluation mode and on the CPU, on `inputs`, and return it as an ONNX model.

    This exporter is deprecated since PyTorch 2.9, but works in every version that the toolkit supports. Its successor
    needs a version of onnxscript that matches PyTorch's, and is much slower.

    Args:
        network: the network to trace.
        inputs: arguments of its forward, tensors or lists of tensors (B, ...).
        input_names: of the tensors in `inputs`, lists flattened.
        output_names: of the tensors that forward returns.
        any_batch: leave B dynamic instead of fixing it to that of `inputs`.

    Raises:
        torch.onnx.errors.OnnxExporterError: the network uses an operation that ONNX lacks.
    """
    axes = {name: {0: "batch"} for name in (*input_names, *output_names)} if any_batch else None
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        # The tracer warns of every branch that depends on a shape or a setting; none depends on the image or the batch.
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.filterwarnings("ignore", "Constant folding")  # of slices; it rightly leaves them in the graph
        torch.onnx.export(
            network,
            inputs,
            f"{folder}/network.onnx",
            input_names=list(input_names),
            output_names=list(output_names),
            dynamic_axes=axes,
            opset_version=OPSET,
            dynamo=False,
        )
        return Path(folder, "network.onnx").read_bytes()
