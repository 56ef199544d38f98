"""The client network as an ONNX file, for the runtimes of phones.

Its input `prepared` is what `Client.prepare` makes of images, its outputs `tap_1` to `tap_4` are the features as
they are sent: shuffled, pruned, quantised (step * code). The file holds the key.
"""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path

import torch

from torchkit.backbone import NUM_TAPS
from torchkit.client.model import Client
from torchkit.util.files import atomic_write_bytes
from torchkit.util.pixels import INPUT_SIZE_PX

OPSET = 17
"""Version of ONNX's operators: all that is needed is there, and runtimes from 2022 on know it."""
INPUT = "prepared"
OUTPUTS = tuple(f"tap_{tap}" for tap in range(1, NUM_TAPS + 1))


def export_onnx(client: Client, path: Path) -> None:
    """Write `client`, which is switched to evaluation and must be on the CPU, as ONNX; any batch size fits.

    Raises:
        ValueError: the package onnx is missing.
    """
    try:
        import onnx
    except ImportError as error:
        raise ValueError(f"to write ONNX the package onnx is needed ({error}): pip install onnx") from error
    model = onnx.load_from_string(_traced(client.eval()))
    for output, shape in zip(model.graph.output, client.feature_shapes, strict=True):
        for side, size in zip(output.type.tensor_type.shape.dim[1:], shape, strict=True):
            side.dim_value = size  # tracing does not know that resizing and shuffling give fixed sizes
    onnx.checker.check_model(model, full_check=True)
    atomic_write_bytes(path, model.SerializeToString())


@torch.no_grad()
def _traced(client: Client) -> bytes:
    """What PyTorch's tracing exporter makes of the client.

    That exporter is deprecated since PyTorch 2.9, but does the same in every version that the toolkit runs with. Its
    successor needs a version of onnxscript that fits PyTorch's, and seconds instead of a moment.
    """
    example = torch.zeros(2, client.input_channels, INPUT_SIZE_PX, INPUT_SIZE_PX)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        # It warns of every decision that depends on a shape or a setting; none depends on the image or the batch.
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.onnx.export(
            client,
            (example,),
            f"{folder}/client.onnx",
            input_names=[INPUT],
            output_names=list(OUTPUTS),
            dynamic_axes={name: {0: "batch"} for name in (INPUT, *OUTPUTS)},
            opset_version=OPSET,
            dynamo=False,
        )
        return Path(folder, "client.onnx").read_bytes()
