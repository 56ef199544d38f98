"""Conditions: what the server is given of a face, and how an embedding comes of it. One table, `CONDITIONS`.

Whatever stands in the table gets accuracies, curves, intervals, tests and a place in every table, file and chart. A
condition may send messages, whose bytes are then counted, and may be prepared for each obfuscation, also by fitting
something on training faces.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from torchkit.client import Client
from torchkit.client.encoder import Encoder
from torchkit.payload import encode, sizes
from torchkit.system.observation import Observation, observe


class System(Protocol):
    """A server and, if there is one, its client; `ProFaceC` is one."""

    @property
    def recogniser(self) -> Any:
        """A `Recogniser`, or what has its `forward_intermediates` and `embedding_size`."""

    @property
    def client(self) -> Any:
        """A `Client`; None for a recogniser alone."""

    @property
    def server(self) -> Any:
        """A `CompensatedServer`; None for a recogniser alone."""


@dataclass(frozen=True)
class Parties:
    """A `System` of parts."""

    recogniser: Any
    client: Client | None = None
    server: Any = None


@dataclass(frozen=True, eq=False)
class Subject:
    """A batch of B faces, as the client has them and as they are observed."""

    system: System
    clear: Tensor
    """(B, 3, 112, 112) uint8 RGB."""
    observation: Observation
    """What leaves; under a condition without an obfuscation the clear images themselves."""
    prepared: Any = None
    """What the condition's `prepare` returned."""

    def mirrored(self) -> Subject:
        """The mirror images, observed anew: the features of a mirrored image are not those of the image, mirrored."""
        return self._observed(self.clear.flip(-1), self.observation.images.flip(-1))

    def select(self, chosen: list[int]) -> Subject:
        """Some of the faces, observed anew: in float32 where mixed precision is off."""
        streams = self.observation.streams
        return self._observed(
            self.clear[chosen],
            self.observation.images[chosen],
            None if streams is None else [streams[place] for place in chosen],
        )

    def _observed(self, clear: Tensor, images: Tensor, streams: list[bytes] | None = None) -> Subject:
        client = None if self.observation.features is None else self.system.client
        return replace(self, clear=clear, observation=observe(client, clear, images, streams))


@dataclass(frozen=True)
class Condition:
    """A row of the table."""

    name: str
    """As results call it."""
    description: str
    """What the recogniser is given, as a noun phrase."""
    colour: str
    """Of its curves and bars."""
    embed: Callable[[Subject], Tensor]
    """Embeddings (B, D) of any length; with image and mirror image fused, the longer one weighs more."""
    needs_obfuscation: bool = True
    """Whether it is measured for each obfuscation, or once."""
    needs_client: bool = False
    """Whether its observation has features."""
    message_sizes: Callable[[Subject], np.ndarray] | None = None
    """(B, 3) bytes of each face's message, of its image and of its features; None where no client sends anything."""
    prepare: Callable[[System, Iterable[Subject]], Any] | None = None
    """Called once for each obfuscation, with training faces under it (none, if no training images were given)."""


def _embed_image(subject: Subject) -> Tensor:
    embedding: Tensor = subject.system.recogniser.forward_intermediates(subject.observation.images)[1]
    return embedding


def _embed_compensated(subject: Subject) -> Tensor:
    observation = subject.observation
    embedding: Tensor = subject.system.server.forward_intermediates(observation.images, observation.features)[1]
    return embedding


def _payload_sizes(subject: Subject) -> np.ndarray:
    counted = [sizes(encode(payload)) for payload in subject.observation.payloads(subject.prepared)]
    return np.array([(size.message, size.image, sum(size.features)) for size in counted])


def _encoder(system: System, _: Iterable[Subject]) -> Encoder:
    return Encoder(system.client)


CONDITIONS = {
    condition.name: condition
    for condition in (
        Condition("clear", "the clear image", "#3f78b5", _embed_image, needs_obfuscation=False),
        Condition("obfuscated", "the obfuscated image alone", "#8a8f98", _embed_image),
        Condition(
            "compensated",
            "the obfuscated image with the client's features",
            "#d66b0a",
            _embed_compensated,
            needs_client=True,
            message_sizes=_payload_sizes,
            prepare=_encoder,
        ),
    )
}
DEFAULT_CONDITIONS = ("clear", "obfuscated", "compensated")
"""What is measured unless other conditions are asked for."""


@dataclass(frozen=True)
class Case:
    """A condition under an obfuscation."""

    name: str
    """Of the condition."""
    obfuscation: str | None = None
    """Kind of obfuscation; None for a condition that needs none."""

    @property
    def condition(self) -> Condition:
        return CONDITIONS[self.name]


def cases(obfuscations: Iterable[str], names: Iterable[str] = DEFAULT_CONDITIONS) -> list[Case]:
    """Conditions without an obfuscation, then for each obfuscation the others; both in the table's order.

    Raises:
        ValueError: an unknown name.
    """
    wanted = set(names)
    if unknown := wanted - set(CONDITIONS):
        raise ValueError(f"conditions {', '.join(sorted(unknown))}: allowed are {', '.join(CONDITIONS)}")
    chosen = [condition for condition in CONDITIONS.values() if condition.name in wanted]
    once = [Case(condition.name) for condition in chosen if not condition.needs_obfuscation]
    return once + [
        Case(condition.name, kind) for kind in obfuscations for condition in chosen if condition.needs_obfuscation
    ]
