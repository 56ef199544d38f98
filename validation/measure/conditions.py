"""Conditions: what the server receives of a face, and how it is embedded. One table, `CONDITIONS`.

Every condition in the table gets accuracies, curves, intervals, tests and a place in every table, file and chart. A
condition may send messages, whose bytes are then counted, and may be prepared for each obfuscation, e.g. by fitting a
map on training faces.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from torchkit.client import Client
from torchkit.client.encoder import Encoder
from torchkit.payload import Coding, Payload, encode, sizes
from torchkit.system.observation import Observation, observe
from torchkit.util.ridge import LinearMap, fit_best_ridge
from validation.measure.embedding_code import EmbeddingCode

Party = Literal["client", "recogniser", "compensated server"]
"""A network that one of the parties may run for a face."""
NO_FINGERPRINT = bytes(16)


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
    """A `System` put together from its parts."""

    recogniser: Any
    client: Client | None = None
    server: Any = None


@dataclass(frozen=True, eq=False)
class Subject:
    """A batch of B faces: clear, and as observed."""

    system: System
    clear: Tensor
    """(B, 3, 112, 112) uint8 RGB."""
    observation: Observation
    """What leaves the client; under a condition without obfuscation, the clear images."""
    prepared: Any = None
    """The result of the condition's `prepare`."""

    def mirrored(self) -> Subject:
        """Mirror the images and observe them again, since features of a mirrored image are not mirrored features."""
        return self._observed(self.clear.flip(-1), self.observation.images.flip(-1))

    def select(self, chosen: list[int]) -> Subject:
        """Select some of the faces and observe them again, in float32 where mixed precision is off."""
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
    """Its name in results."""
    description: str
    """What the recogniser receives, as a noun phrase."""
    colour: str
    """Colour of its curves and bars."""
    embed: Callable[[Subject], Tensor]
    """Embeddings (B, D) of any length; with image and mirror image fused, the longer one weighs more."""
    needs_obfuscation: bool = True
    """Whether it is measured for each obfuscation, or once."""
    needs_client: bool = False
    """Whether its observation includes features."""
    message_sizes: Callable[[Subject], np.ndarray] | None = None
    """(B, 3) bytes of each face's message, of its image and of its features; None where no client sends anything."""
    client_runs: Party | None = None
    """The network that the client runs for a face: its own, the recogniser, or none."""
    server_runs: Party | None = "recogniser"
    prepare: Callable[[System, Iterable[Subject]], Any] | None = None
    """Called once for each obfuscation, with training faces under it (none, if no training images were given)."""


def _embed_image(subject: Subject) -> Tensor:
    embedding: Tensor = subject.system.recogniser.forward_intermediates(subject.observation.images)[1]
    return embedding


def _embed_compensated(subject: Subject) -> Tensor:
    observation = subject.observation
    embedding: Tensor = subject.system.server.forward_intermediates(observation.images, observation.features)[1]
    return embedding


def _message_sizes(payloads: Iterable[Payload], coding: Coding | None = None) -> np.ndarray:
    counted = [sizes(encode(payload, coding)) for payload in payloads]
    return np.array([(size.message, size.image, sum(size.features)) for size in counted])


def _payload_sizes(subject: Subject) -> np.ndarray:
    encoder = subject.prepared
    return _message_sizes(subject.observation.payloads(encoder), encoder.coding)


def _encoder(system: System, _: Iterable[Subject]) -> Encoder:
    return Encoder(system.client)


def _embed_clear(subject: Subject) -> Tensor:
    """Embed the clear images by the recogniser, unit length."""
    return F.normalize(subject.system.recogniser.forward_intermediates(subject.clear)[1])


def _flat_features(subject: Subject) -> Tensor:
    """Concatenate the features of all taps as they leave: (B, d)."""
    assert subject.observation.features is not None
    return torch.cat([tap.flatten(1) for tap in subject.observation.features], dim=1)


def _fit_linear_map(_: System, faces: Iterable[Subject]) -> LinearMap:
    pairs = [(_flat_features(subject), _embed_clear(subject)) for subject in faces]
    if not pairs:
        raise ValueError("the condition client_alone is fitted on training images: name their set with --fit-on")
    features, embeddings = (torch.cat(tensors) for tensors in zip(*pairs, strict=True))
    return fit_best_ridge(features, embeddings)


def _embed_linear(subject: Subject) -> Tensor:
    embedding: Tensor = subject.prepared(_flat_features(subject))
    return embedding


def _embedding_code(bits: int, system: System, _: Iterable[Subject]) -> EmbeddingCode:
    return EmbeddingCode(system.recogniser.embedding_size, bits)


def _embed_code(subject: Subject) -> Tensor:
    code: EmbeddingCode = subject.prepared
    return code.decode(code.encode(_embed_clear(subject)))


def _code_sizes(subject: Subject) -> np.ndarray:
    code: EmbeddingCode = subject.prepared
    client = subject.system.client
    images = subject.observation.encoded_images(None if client is None else client.settings.image_quality)
    codes = code.encode(_embed_clear(subject)).cpu().numpy()
    payloads = (Payload(NO_FINGERPRINT, image, (code.tap(row),)) for image, row in zip(images, codes, strict=True))
    return _message_sizes(payloads, code.coding(NO_FINGERPRINT))


def _embedding_only(bits: int, colour: str) -> Condition:
    """The client runs the whole recogniser, and sends its embedding beside the obfuscated image."""
    return Condition(
        f"embedding_{bits}_bit",
        f"the clear image's embedding in {bits} bit{'s' if bits > 1 else ''} a value, made by the client",
        colour,
        _embed_code,
        message_sizes=_code_sizes,
        client_runs="recogniser",
        server_runs=None,
        prepare=partial(_embedding_code, bits),
    )


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
            client_runs="client",
            server_runs="compensated server",
            prepare=_encoder,
        ),
        Condition(
            "client_alone",
            "what a linear map, fitted on training images, makes of the client's features without any server",
            "#7a4fb0",
            _embed_linear,
            needs_client=True,
            client_runs="client",
            server_runs=None,
            prepare=_fit_linear_map,
        ),
        _embedding_only(1, "#2f8f6b"),
        _embedding_only(2, "#145c43"),
    )
}
DEFAULT_CONDITIONS = ("clear", "obfuscated", "compensated")
"""The conditions that are measured by default."""


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
    """List the conditions without an obfuscation, then for each obfuscation the others, in the table's order.

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
