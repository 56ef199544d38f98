"""From images to payloads: what the phone does."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from torchkit.client.model import Client, ClientSettings
from torchkit.client.quantise import FLOAT_BITS
from torchkit.payload import FREQUENCY_TOTAL, Coding, EncodedImage, Payload, TapCoding, TapFeatures, encode
from torchkit.payload.message import FINGERPRINT_BYTES
from torchkit.util.pixels import to_batch


def fingerprint(client: Client) -> bytes:
    """(16,) bytes that tell this client, its key included, from every other; they tell nothing else about it."""
    default = ClientSettings(client.settings.server_shapes).as_dict()  # a setting that is new one day changes no name
    settings = sorted(item for item in client.settings.as_dict().items() if item[1] != default[item[0]])
    digest = hashlib.blake2b(repr(settings).encode(), digest_size=FINGERPRINT_BYTES)
    for name, tensor in sorted(client.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.digest()


class Encoder:
    """Makes payloads with a trained client, which is switched to evaluation."""

    def __init__(self, client: Client) -> None:
        self.client = client.eval()
        self.fingerprint = fingerprint(client)
        self.coding = coding_of(client)

    @torch.inference_mode()
    def __call__(self, clear: Sequence[np.ndarray], obfuscated: Sequence[np.ndarray]) -> list[Payload]:
        """Payloads of faces.

        Args:
            clear: images (112, 112, 3) uint8 RGB.
            obfuscated: the same, obfuscated.
        """
        images = [EncodedImage.compress(image, self.client.settings.image_quality) for image in obfuscated]
        device = next(self.client.parameters()).device
        received = to_batch([image.pixels for image in images]).to(device)
        features = self.client(self.client.prepare(to_batch(clear).to(device), received))
        return self.payloads(images, features)

    def payloads(self, images: Sequence[EncodedImage], features: Sequence[Tensor]) -> list[Payload]:
        """Payloads of obfuscated images and the client's features for them, (B, C_i, h_i, w_i) of each tap."""
        taps = [self._tap_features(str(tap), maps) for tap, maps in enumerate(features, start=1)]
        return [Payload(self.fingerprint, *message) for message in zip(images, zip(*taps, strict=True), strict=True)]

    def messages(self, clear: Sequence[np.ndarray], obfuscated: Sequence[np.ndarray]) -> list[bytes]:
        """The payloads of faces as bytes, as this client writes them."""
        return [encode(payload, self.coding) for payload in self(clear, obfuscated)]

    def _tap_features(self, name: str, features: Tensor) -> list[TapFeatures]:
        """What leaves of one tap's features (B, C, h, w), quantised or to be quantised, for each image."""
        bits, step = bits_and_step(self.client, name)
        codes = features.float() if bits == FLOAT_BITS else self.client.quantisers[name].codes(features)
        kept = self.client.kept_channels(name).numpy()
        shape = (codes.shape[1], codes.shape[2], codes.shape[3])
        return [TapFeatures(shape, kept, bits, step, one_face[kept]) for one_face in codes.cpu().numpy()]


def bits_and_step(client: Client, name: str) -> tuple[int, float]:
    """Of what leaves a tap ("1".."5"); 32 and 1 while it is not quantised."""
    if name in client.quantisers and (quantiser := client.quantisers[name]).active:
        return quantiser.bits, quantiser.step.item()
    return FLOAT_BITS, 1.0


def coding_of(client: Client) -> Coding | None:
    """What the reader of a client's messages has to know beforehand; None: nothing."""
    if client.settings.coding != "range":
        return None
    taps = []
    for name, shape in zip(client.tap_names, client.feature_shapes, strict=True):
        bits, step = bits_and_step(client, name)
        kept = client.kept_channels(name).numpy()
        taps.append(TapCoding(shape, kept, bits, step, _frequencies(client, name)[kept]))
    return Coding(fingerprint(client), tuple(taps))


def _frequencies(client: Client, name: str) -> np.ndarray:
    """(C, h * w or 1, codes) int64 of a tap, none of whose channels may be sent."""
    bits, _ = bits_and_step(client, name)
    if bits == FLOAT_BITS:
        return np.zeros((client.feature_shapes[int(name) - 1][0], 1, 0), np.int64)
    if name not in client.frequencies:
        return np.full((client.feature_shapes[int(name) - 1][0], 1, 2**bits), FREQUENCY_TOTAL // 2**bits, np.int64)
    return client.frequencies[name].table.cpu().numpy().astype(np.int64)
