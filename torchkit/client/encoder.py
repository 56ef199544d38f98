"""From images to payloads: what the phone does."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from torchkit.client.model import Client, ClientSettings
from torchkit.client.quantise import FLOAT_BITS
from torchkit.payload import EncodedImage, Payload, TapFeatures
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
        """Payloads of obfuscated images and the client's features for them, four maps (B, C_i, h_i, w_i)."""
        taps = [self._tap_features(str(tap), maps) for tap, maps in enumerate(features, start=1)]
        return [Payload(self.fingerprint, *message) for message in zip(images, zip(*taps, strict=True), strict=True)]

    def _tap_features(self, name: str, features: Tensor) -> list[TapFeatures]:
        """What leaves of one tap's features (B, C, h, w), quantised or to be quantised, for each image."""
        bits, step, codes = FLOAT_BITS, 1.0, features.float()
        if name in self.client.quantisers and (quantiser := self.client.quantisers[name]).active:
            bits, step, codes = quantiser.bits, quantiser.step.item(), quantiser.codes(features)
        kept = np.arange(codes.shape[1])
        if name in self.client.pruners:
            kept = kept[self.client.pruners[name].keep.cpu().numpy()]
        shape = (codes.shape[1], codes.shape[2], codes.shape[3])
        return [TapFeatures(shape, kept, bits, step, one_face[kept]) for one_face in codes.cpu().numpy()]
