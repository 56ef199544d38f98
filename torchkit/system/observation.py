"""Observations, what an observer sees of faces: the one place that makes images and features as they leave the client.

    clear image -> augmentation -> obfuscation -> image compression           = obfuscated image, as received
    clear image, obfuscated image -> client -> shuffle, prune, quantise        = features, as they leave

Validation embeds observations, counts their bytes and shows them; attackers are trained on them. Observations under
other keys are derived from the client's: `undo_shuffle` with the client's shuffles gives what a thief of the key sees,
with those of another client what a wrong guess gives, and `apply_shuffle` after the first what a client with another
key sends.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from torchkit.client import Client
from torchkit.client.encoder import Encoder
from torchkit.client.shuffle import BlockChannelShuffle
from torchkit.data.camera import Camera
from torchkit.obfuscation import evaluation_image
from torchkit.payload import EncodedImage, Payload
from torchkit.system.model import ProFaceC
from torchkit.util.seeding import content_stream

Shuffles = Mapping[str, BlockChannelShuffle]
"""By tap ("1".."4"), as `Client.shuffles`."""


@dataclass(frozen=True, eq=False)
class Observation:
    """What an observer sees of B faces; parts that it does not see are None."""

    images: Tensor
    """(B, 3, 112, 112) uint8 RGB: the obfuscated images, as the server decodes them."""
    features: tuple[Tensor, ...] | None = None
    """Of each tap, (B, C_i, h_i, w_i) float32: shuffled, pruned and quantised, as a payload decodes to, bit for bit."""
    embedding: Tensor | None = None
    """(B, D), unit length."""
    streams: tuple[bytes, ...] | None = None
    """The WebP streams of lossy images; None for lossless ones, which their pixels determine."""

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, chosen: slice) -> Observation:
        """The observation of some of the faces."""
        return Observation(
            self.images[chosen],
            None if self.features is None else tuple(tap[chosen] for tap in self.features),
            None if self.embedding is None else self.embedding[chosen],
            None if self.streams is None else self.streams[chosen],
        )

    def to(self, device: torch.device) -> Observation:
        return replace(
            self,
            images=self.images.to(device),
            features=None if self.features is None else tuple(tap.to(device) for tap in self.features),
            embedding=None if self.embedding is None else self.embedding.to(device),
        )

    def encoded_images(self, quality: int | None) -> list[EncodedImage]:
        """Return the images as sent; those without a stream are compressed, None: lossless, 0..100: lossy WebP."""
        if self.streams is not None:
            return [EncodedImage.read(stream) for stream in self.streams]
        return [EncodedImage.compress(image, quality) for image in channels_last(self.images)]

    def payloads(self, encoder: Encoder) -> list[Payload]:
        """Return the messages that were observed, as `encoder` writes them."""
        assert self.features is not None
        return encoder.payloads(self.encoded_images(encoder.client.settings.image_quality), self.features)


class ObservedFace(NamedTuple):
    """A clear image and its obfuscations of K kinds or, collated, a batch of B of them."""

    clear: Tensor
    """(3, 112, 112) uint8 RGB."""
    obfuscated: Tensor
    """(K, 3, 112, 112) uint8 RGB, as received."""
    streams: list[Any]
    """K WebP streams, empty for lossless images; collated K lists of B."""


class ObservedFaces(Dataset[ObservedFace]):
    """Clear images with their obfuscations as received, computed in the workers of a data loader.

    The hybrid's cells are drawn from the seed and the image's own bytes, so that they depend neither on the run nor on
    the order of images.

    Args:
        images: (N, 3, 112, 112) uint8 RGB, clear.
        kinds: of obfuscation.
        seed: of the hybrid.
        quality: of the image as it is sent: None lossless, 0..100 lossy WebP.
    """

    def __init__(self, images: np.ndarray, kinds: Sequence[str], seed: int, quality: int | None = None) -> None:
        self.images, self.kinds, self.seed, self.quality = images, kinds, seed, quality

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, position: int) -> ObservedFace:
        clear = self.images[position]
        image = np.ascontiguousarray(clear.transpose(1, 2, 0))
        obfuscated = np.empty((len(self.kinds), *clear.shape), np.uint8)
        streams = []
        for place, kind in enumerate(self.kinds):
            pixels, stream = evaluation_image(image, kind, self.seed), b""
            if self.quality is not None:
                encoded = EncodedImage.compress(pixels, self.quality)
                pixels, stream = encoded.pixels, encoded.data
            obfuscated[place] = pixels.transpose(2, 0, 1)
            streams.append(stream)
        return ObservedFace(torch.from_numpy(clear), torch.from_numpy(obfuscated), streams)


@torch.no_grad()
def observe(
    client: Client | None, clear: Tensor, obfuscated: Tensor, streams: Sequence[bytes] | None = None
) -> Observation:
    """Observe faces whose images are obfuscated already.

    Args:
        client: in evaluation mode; None: no features are sent.
        clear: (B, 3, 112, 112) uint8 RGB, on the client's device.
        obfuscated: the same, obfuscated and as received.
        streams: the WebP streams of lossy images.
    """
    features = None
    if client is not None:
        features = tuple(tap.float() for tap in client(client.prepare(clear, obfuscated)))
    known = tuple(streams) if streams and all(streams) else None
    return Observation(obfuscated, features, streams=known)


@torch.no_grad()
def observe_images(
    system: ProFaceC, images: np.ndarray, kind: str, seed: int, with_embedding: bool = False
) -> Observation:
    """Observe clear images under the evaluation settings of one kind of obfuscation, on the system's device.

    Args:
        system: client and server, in evaluation mode.
        images: (B, 3, 112, 112) uint8 RGB, clear; apply `augmented` first for the effects of a camera.
        kind: of obfuscation.
        seed: of the hybrid.
        with_embedding: whether the observer also knows the server's embedding of the clear images.
    """
    device = next(system.parameters()).device
    faces = ObservedFaces(images, (kind,), seed, system.client.settings.image_quality)
    items = [faces[position] for position in range(len(faces))]
    clear, obfuscated = (torch.stack(tensors).to(device) for tensors in zip(*(item[:2] for item in items), strict=True))
    observation = observe(system.client, clear, obfuscated[:, 0], [item.streams[0] for item in items])
    return replace(observation, embedding=system.recogniser(clear)) if with_embedding else observation


def augmented(images: np.ndarray, camera: Camera, seed: int) -> np.ndarray:
    """Apply a camera to images (N, 3, 112, 112) uint8 RGB; its draws depend on seed and image alone."""
    taken = np.empty_like(images)
    for place, image in enumerate(images):
        face = np.ascontiguousarray(image.transpose(1, 2, 0))  # (112, 112, 3)
        taken[place] = camera(face, content_stream(face, seed, "camera")).transpose(2, 0, 1)
    return taken


def undo_shuffle(observation: Observation, shuffles: Shuffles) -> Observation:
    """Undo the key of `shuffles`: with the client's key this restores the order of its features."""
    return _permuted(observation, {name: shuffle.restore for name, shuffle in shuffles.items()})


def apply_shuffle(observation: Observation, shuffles: Shuffles) -> Observation:
    """Apply the key of `shuffles`."""
    return _permuted(observation, dict(shuffles.items()))


def _permuted(observation: Observation, permutations: Mapping[str, Any]) -> Observation:
    assert observation.features is not None
    taps = enumerate(observation.features, start=1)
    features = tuple(permutations[str(tap)](maps) if str(tap) in permutations else maps for tap, maps in taps)
    return replace(observation, features=features)


def channels_last(images: Tensor) -> np.ndarray:
    """Copy images (B, 3, H, W) uint8 from any device to a contiguous array (B, H, W, 3)."""
    return images.permute(0, 2, 3, 1).contiguous().cpu().numpy()
