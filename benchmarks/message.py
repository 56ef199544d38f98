"""What a client and a server do a face besides the recogniser: the client network, encoding and decoding.

These parts have no published counterpart to be compared with: messages are timed beside NumPy's archive of the same
content, and the client network in PyTorch beside ONNX Runtime.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from torchkit.client import Client, ClientSettings
from torchkit.obfuscation import obfuscate
from torchkit.payload import EncodedImage, Payload, TapFeatures, decode, encode

SETTINGS = ClientSettings(
    server_shapes=((64, 28, 28), (128, 14, 14), (128, 7, 7), (512, 7, 7)),
    bits=(2, 2, 2, 2),
    pruned_channels=(0.5, 0.5, 0.5, 0.75),
)
"""A client of configs/faces.yaml's kind."""
ZERO_SHARE = 0.6
"""Of the codes: features of trained clients have about as many."""
KEY_SEED = 7
FINGERPRINT = bytes(16)

Timer = Callable[[Callable[[], Any]], float]


class Messages:
    """The same faces as payloads and as NumPy archives.

    Args:
        images: (N, 3, 112, 112) uint8 RGB.
        seed: of obfuscations and codes.
    """

    def __init__(self, images: np.ndarray, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.obfuscated = [obfuscate(np.ascontiguousarray(image.transpose(1, 2, 0)), "hybrid", rng) for image in images]
        self.taps = [draw_taps(rng) for _ in images]
        self.encoded = self.encode()
        self.archives = self.archive()

    def encode(self) -> list[bytes]:
        """Images and codes to messages: all of a client's work but the network's."""
        return [
            encode(Payload(FINGERPRINT, EncodedImage.compress(image), taps))
            for image, taps in zip(self.obfuscated, self.taps, strict=True)
        ]

    def decode(self) -> list[list[np.ndarray]]:
        """Messages to images and feature values: all of a server's work but the recogniser's."""
        payloads = [decode(message) for message in self.encoded]
        return [[payload.image.pixels, *(tap.values() for tap in payload.taps)] for payload in payloads]

    def archive(self) -> list[bytes]:
        """What a first attempt would send: a PNG and float32 maps in a compressed NumPy archive."""
        found = []
        for image, taps in zip(self.obfuscated, self.taps, strict=True):
            buffer = io.BytesIO()
            png = cv2.imencode(".png", image[..., ::-1])[1]
            np.savez_compressed(buffer, png, *(tap.values() for tap in taps))
            found.append(buffer.getvalue())
        return found

    def read_archives(self) -> list[list[np.ndarray]]:
        """Images and feature values out of the archives."""
        found = []
        for data in self.archives:
            with np.load(io.BytesIO(data), allow_pickle=False) as archive:
                png, *maps = (archive[name] for name in archive.files)
            image = cv2.imdecode(png, cv2.IMREAD_COLOR)
            assert image is not None
            found.append([image[..., ::-1], *maps])
        return found


def draw_taps(rng: np.random.Generator) -> tuple[TapFeatures, ...]:
    """Random 2-bit features of SETTINGS' shapes, of which ZERO_SHARE is zero."""
    rest = (1 - ZERO_SHARE) / 3
    taps = []
    for shape, pruned in zip(SETTINGS.server_shapes, SETTINGS.pruned_channels, strict=True):
        kept = np.sort(rng.permutation(shape[0])[: round(shape[0] * (1 - pruned))])
        codes = rng.choice([-2, -1, 0, 1], (len(kept), *shape[1:]), p=[rest, rest, ZERO_SHARE, rest])
        taps.append(TapFeatures(shape, kept, 2, 0.125, codes.astype(np.int8)))
    return tuple(taps)


def client_latency(timer: Timer) -> dict[str, float]:
    """Milliseconds of the client network for one face, in PyTorch and in ONNX Runtime, both on torch's threads.

    Raises:
        ValueError: the packages onnx and onnxruntime are missing.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise ValueError(f"the part `client` needs onnx and onnxruntime ({error}): pip install them") from error
    from torchkit.client.onnx import INPUT, export_onnx

    client = Client(SETTINGS, KEY_SEED).eval()
    face = torch.randn(1, 3, 112, 112)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as folder:
        export_onnx(client, Path(folder) / "client.onnx")
        session = onnxruntime.InferenceSession(Path(folder) / "client.onnx", options)
    with torch.inference_mode():
        torch_ms = 1000 * timer(lambda: client(face))
    onnx_ms = 1000 * timer(lambda: session.run(None, {INPUT: face.numpy()}))
    return {"torch_ms": torch_ms, "onnxruntime_ms": onnx_ms, "ratio": torch_ms / onnx_ms}
