"""Example faces of a validation set: what is sent and what is not, for people to look at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from torchkit.data.validation_set import ValidationSet
from torchkit.system.observation import undo_shuffle
from validation.measure.conditions import Case, Subject

MAPS_SHOWN = 16
"""Channels of a feature map that are shown, as 4 x 4 tiles."""


@dataclass(frozen=True, eq=False)
class ExampleKind:
    """A face under one obfuscation; all images uint8.

    Attributes:
        obfuscation: its kind.
        obfuscated: (112, 112, 3) RGB, as the server gets it.
        residual: (112, 112, 3) RGB, clear minus obfuscated, halved, around mid-grey.
        features: (H, W) the first channels that leave at the first shuffled tap, with the shuffle undone; None without
            a shuffle.
        shuffled: (H, W) the first channels as they are sent.
    """

    obfuscation: str
    obfuscated: np.ndarray
    residual: np.ndarray
    features: np.ndarray | None
    shuffled: np.ndarray | None


@dataclass(frozen=True, eq=False)
class Example:
    """A face, (112, 112, 3) uint8 RGB, and it under each obfuscation."""

    clear: np.ndarray
    kinds: list[ExampleKind]


class ExampleCollector:
    """Keeps up to `count` faces, evenly spread over a set's pairs, as an evaluation observes them."""

    def __init__(self, data: ValidationSet, count: int) -> None:
        pairs = np.linspace(0, len(data.same), count, endpoint=False).astype(int)
        self.images = data.images
        self.first = list(dict.fromkeys(int(data.rows[2 * pair]) for pair in pairs))  # without repeats, in order
        self.kinds: dict[tuple[int, str], ExampleKind] = {}

    def __call__(self, case: Case, positions: Sequence[int], subject: Subject) -> None:
        if case.obfuscation is None:
            return
        for place, position in enumerate(positions):
            known = self.kinds.get((position, case.obfuscation))
            if position in self.first and (known is None or known.features is None):
                example = _example_kind(case.obfuscation, self.images[position], subject, place)
                self.kinds[position, case.obfuscation] = example

    def examples(self) -> list[Example]:
        """The faces; in the main process, which embeds them all."""
        return [
            Example(for_people(self.images[image]), [kind for (place, _), kind in self.kinds.items() if place == image])
            for image in self.first
        ]


def _example_kind(obfuscation: str, clear: np.ndarray, subject: Subject, place: int) -> ExampleKind:
    """Of face `place` of a batch, whose clear image is (3, 112, 112) uint8 RGB."""
    sent = for_people(subject.observation.images[place].cpu().numpy())
    difference = (for_people(clear).astype(np.int16) - sent) // 2 + 128
    before, after = shuffled_maps(subject, place)
    return ExampleKind(obfuscation, sent, difference.astype(np.uint8), before, after)


def for_people(image: np.ndarray) -> np.ndarray:
    """(3, H, W) -> (H, W, 3)."""
    return np.ascontiguousarray(image.transpose(1, 2, 0))


def shuffled_maps(subject: Subject, place: int) -> tuple[np.ndarray | None, np.ndarray | None]:
    """What leaves of one face at the client's first shuffled tap, in order and as it is sent, as tiles (H, W) uint8.

    Both share one scale from black to white. (None, None) where no features are sent or none are shuffled.
    """
    if subject.observation.features is None or not subject.system.client.settings.shuffle_taps:
        return None, None
    shuffles = subject.system.client.shuffles
    tap = min(subject.system.client.settings.shuffle_taps) - 1
    maps = (undo_shuffle(subject.observation, shuffles).features or ())[tap], subject.observation.features[tap]
    before, after = (features[place].cpu().numpy() for features in maps)
    return tiles(before, before.min(), before.max()), tiles(after, before.min(), before.max())


def tiles(maps: np.ndarray, low: float, high: float) -> np.ndarray:
    """The first `MAPS_SHOWN` channels of (C, h, w) in rows of four, (H, W) uint8; `low` is black, `high` white."""
    side = int(MAPS_SHOWN**0.5)
    channels, height, width = maps[:MAPS_SHOWN].shape
    grid = np.zeros((side * side, height, width), np.float32)
    grid[:channels] = np.clip((maps[:MAPS_SHOWN] - low) / max(high - low, 1e-12), 0, 1)
    rows = grid.reshape(side, side, height, width).transpose(0, 2, 1, 3)
    return np.round(255 * rows.reshape(side * height, side * width)).astype(np.uint8)
