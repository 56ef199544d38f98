"""Embed a validation set under every condition in one pass over its distinct images, split over the processes.

An image is obfuscated once for each kind; bytes of messages and example faces are collected in the same pass.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import NamedTuple, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Subset
from tqdm import tqdm

from torchkit.data.training_set import make_loader
from torchkit.data.validation_set import ValidationSet
from torchkit.system.observation import Observation, ObservedFaces, observe
from torchkit.util.device import autocast
from torchkit.util.distributed import is_main, rank, reduce_sum, world_size
from validation.measure.conditions import Case, Subject, System, cases


@dataclass(frozen=True)
class Computation:
    """Device, precision and workers of an evaluation."""

    device: torch.device
    batch_size: int = 64
    num_workers: int = 0
    """Number of processes that obfuscate."""
    amp: torch.dtype | None = None
    """Type of mixed precision; None: float32."""
    flip: bool = False
    """Fuse the embeddings of each image and its mirror image, see `fused`."""


class FaceBatch(NamedTuple):
    """A batch of a set's distinct images, with their obfuscations."""

    positions: list[int]
    """Their positions in the set."""
    clear: Tensor
    """(B, 3, 112, 112) uint8 RGB."""
    obfuscated: dict[str, tuple[Tensor, Sequence[bytes]]]
    """By kind: (B, 3, 112, 112) uint8 RGB, as received, and the WebP streams, empty for lossless images."""


class Collector(Protocol):
    """Sees every batch under every case."""

    @property
    def first(self) -> Collection[int]:
        """Positions of images that the main process must embed."""

    def __call__(self, case: Case, positions: Sequence[int], subject: Subject) -> None: ...


@torch.inference_mode()
def embed(
    system: System,
    data: ValidationSet,
    wanted: Sequence[Case],
    seed: int,
    computation: Computation,
    collectors: Sequence[Collector] = (),
    fit_images: np.ndarray | None = None,
) -> dict[Case, np.ndarray]:
    """Embed every row of a set in every case; each process embeds its part, and returns all.

    Args:
        system: client and server, or a recogniser alone.
        data: the set.
        wanted: as from `cases`.
        seed: of the hybrid.
        computation: device, precision and workers.
        collectors: called with every batch in every case.
        fit_images: (M, 3, 112, 112) uint8 RGB, training images for conditions that are fitted.

    Returns:
        case -> (N, D) float32, unit length, in row order.
    """
    positions = own_positions(len(data.images), [place for collector in collectors for place in collector.first])
    batches = face_batches(system, data.images, wanted, seed, computation, positions)
    progress = tqdm(batches, desc=data.name, unit=" batches", dynamic_ncols=True, disable=not is_main())
    prepared = prepare(system, wanted, seed, computation, fit_images)
    distinct = embed_batches(system, progress, len(data.images), prepared, computation, collectors)
    return {case: from_all(array, computation.device)[data.rows] for case, array in distinct.items()}


def own_positions(count: int, first: Iterable[int]) -> list[int]:
    """Choose the images, of `count`, that this process embeds: an even share, in the main process also `first`."""
    leading = list(dict.fromkeys(first))
    others = [place for place in range(count) if place not in set(leading)]
    return (leading if is_main() else []) + others[rank() :: world_size()]


class FaceBatches:
    """Batches of the images at `positions`, obfuscated by the loader's workers."""

    def __init__(self, faces: ObservedFaces, positions: Sequence[int], computation: Computation) -> None:
        self.kinds, self.positions, self.batch_size = faces.kinds, positions, computation.batch_size
        self.loader = make_loader(
            Subset(faces, positions), computation.num_workers, computation.device, batch_size=computation.batch_size
        )

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[FaceBatch]:
        for number, (clear, obfuscated, streams) in enumerate(self.loader):
            start = number * self.batch_size
            by_kind = dict(zip(self.kinds, zip(obfuscated.unbind(1), streams, strict=True), strict=True))
            yield FaceBatch(list(self.positions[start : start + len(clear)]), clear, by_kind)


def face_batches(
    system: System, images: np.ndarray, wanted: Iterable[Case], seed: int, computation: Computation,
    positions: Sequence[int] | None = None,
) -> FaceBatches:  # fmt: skip
    """Images (M, 3, 112, 112) uint8 RGB, or those at `positions`, with the obfuscations that cases want."""
    kinds = list(dict.fromkeys(case.obfuscation for case in wanted if case.obfuscation is not None))
    quality = None if system.client is None else system.client.settings.image_quality
    places = range(len(images)) if positions is None else positions
    return FaceBatches(ObservedFaces(images, kinds, seed, quality), places, computation)


def prepare(
    system: System, wanted: Iterable[Case], seed: int, computation: Computation, fit_images: np.ndarray | None
) -> dict[Case, object]:
    """Call each case's `Condition.prepare` and return the results; None where there is nothing to prepare."""
    prepared: dict[Case, object] = dict.fromkeys(wanted)
    for case in prepared:
        if case.condition.prepare is not None:
            batches = () if fit_images is None else face_batches(system, fit_images, [case], seed, computation)
            faces = (subject for batch in batches for _, subject in subjects(system, batch, [case], computation.device))
            prepared[case] = case.condition.prepare(system, faces)
    return prepared


def embed_batches(
    system: System, batches: Iterable[FaceBatch], count: int, prepared: dict[Case, object], computation: Computation,
    collectors: Sequence[Collector] = (),
) -> dict[Case, np.ndarray]:  # fmt: skip
    """Embeddings (count, D) in each of the cases that are prepared; zeros for images that are in no batch."""
    shape = (count, system.recogniser.embedding_size)
    distinct = {case: np.zeros(shape, np.float32) for case in prepared}
    with autocast(computation.amp, computation.device):
        for batch in batches:
            for own_cases, plain in subjects(system, batch, prepared, computation.device):
                mirrored = plain.mirrored() if computation.flip else None
                for case in own_cases:
                    subject = replace(plain, prepared=prepared[case])
                    mirror = None if mirrored is None else replace(mirrored, prepared=prepared[case])
                    distinct[case][batch.positions] = fused(case, subject, mirror).cpu().numpy()
                    for collector in collectors:
                        collector(case, batch.positions, subject)
    return distinct


def subjects(
    system: System, batch: FaceBatch, wanted: Iterable[Case], device: torch.device
) -> Iterator[tuple[list[Case], Subject]]:
    """The faces as they are observed under each obfuscation of the cases, with the cases that it is for."""
    clear = batch.clear.to(device)
    for kind, group in groupby(wanted, lambda case: case.obfuscation):
        own_cases = list(group)
        if kind is None:
            yield own_cases, Subject(system, clear, Observation(clear))
            continue
        images, streams = batch.obfuscated[kind]
        client = system.client if any(case.condition.needs_client for case in own_cases) else None
        yield own_cases, Subject(system, clear, observe(client, clear, images.to(device), streams))


def fused(case: Case, subject: Subject, mirrored: Subject | None) -> Tensor:
    """Embedding (B, D), unit length, of images or, with `mirrored`, of images and their mirror images together.

    Both embeddings are summed before they are normalised, so that the longer one, of the clearer image, weighs more:
    this is the fusion of AdaFace's published accuracies (Kim et al., CVPR 2022).

    For a compensated image, the clear and the obfuscated image are both mirrored; a hybrid is not drawn again. The
    server could mirror the obfuscated image itself, but not the features: so the client sends two messages, not one.
    """
    embedding = case.condition.embed(subject)
    return F.normalize(embedding if mirrored is None else embedding + case.condition.embed(mirrored))


def from_all(array: np.ndarray, device: torch.device) -> np.ndarray:
    """Sum an array over all processes, e.g. rows that are zero in all processes but one."""
    return array if world_size() == 1 else reduce_sum(torch.from_numpy(array).to(device)).cpu().numpy()


__all__ = ["Case", "Computation", "cases", "embed"]
