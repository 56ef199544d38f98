"""Faces to messages and back: what a client and a server do beside running their networks.

Messages have no published counterpart; they are timed beside NumPy's archive of the same content.
"""

from __future__ import annotations

import io
from pathlib import Path

import cv2
import numpy as np

from benchmarks.harness import Comparison, Sizes, one_thread, require_close, unchecked
from benchmarks.inputs import SEED, draw_images
from torchkit.obfuscation import obfuscate
from torchkit.payload import EncodedImage, Payload, TapFeatures, decode, encode

SHAPES = ((64, 28, 28), (128, 14, 14), (128, 7, 7), (512, 7, 7))
"""Of the features of a MobileFaceNet before a MobileFaceNet."""
PRUNED_CHANNELS = (0.5, 0.5, 0.5, 0.75)
BITS = 2
ZERO_SHARE = 0.6
"""Of the codes: features of trained clients have about as many."""
FINGERPRINT = bytes(16)


def encoding(_: Path, sizes: Sizes) -> Comparison:
    messages = Messages(draw_images(sizes.images, SEED), SEED)
    return Comparison(one_thread(messages.archive), one_thread(messages.encode), unchecked)


def decoding(_: Path, sizes: Sizes) -> Comparison:
    messages = Messages(draw_images(sizes.images, SEED), SEED)
    return Comparison(one_thread(messages.read_archives), one_thread(messages.decode), _check_messages)


def _check_messages(theirs: list[list[np.ndarray]], ours: list[list[np.ndarray]]) -> None:
    for expected, decoded in zip(theirs, ours, strict=True):
        equal = all(np.array_equal(a, b) for a, b in zip(expected, decoded, strict=True))
        require_close("decoding: (0 equal, 1 not) images and features", float(not equal), 0)


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
        archives = []
        for image, taps in zip(self.obfuscated, self.taps, strict=True):
            buffer = io.BytesIO()
            png = cv2.imencode(".png", image[..., ::-1])[1]
            np.savez_compressed(buffer, png, *(tap.values() for tap in taps))
            archives.append(buffer.getvalue())
        return archives

    def read_archives(self) -> list[list[np.ndarray]]:
        """Images and feature values out of the archives."""
        decoded = []
        for data in self.archives:
            with np.load(io.BytesIO(data), allow_pickle=False) as archive:
                png, *maps = (archive[name] for name in archive.files)
            image = cv2.imdecode(png, cv2.IMREAD_COLOR)
            assert image is not None
            decoded.append([image[..., ::-1], *maps])
        return decoded


def draw_taps(rng: np.random.Generator) -> tuple[TapFeatures, ...]:
    """Random features of SHAPES and BITS, of which ZERO_SHARE is zero."""
    rest = (1 - ZERO_SHARE) / 3
    taps = []
    for shape, pruned in zip(SHAPES, PRUNED_CHANNELS, strict=True):
        kept = np.sort(rng.permutation(shape[0])[: round(shape[0] * (1 - pruned))])
        codes = rng.choice([-2, -1, 0, 1], (len(kept), *shape[1:]), p=[rest, rest, ZERO_SHARE, rest])
        taps.append(TapFeatures(shape, kept, BITS, 0.125, codes.astype(np.int8)))
    return tuple(taps)
