"""Whether a reconstruction is recognised as its person, by a judge that nobody else has used.

Type I compares it with the very image it was made of; type II with other images of the person (Mai et al., IEEE TPAMI
2019), at the threshold where the judge takes two strangers' clear images for one person with a given false match rate.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from torchkit.server import Recogniser

FMRS: Mapping[str, float] = {"tar_fmr_1e-2": 1e-2, "tar_fmr_1e-3": 1e-3}
"""Name of a success rate -> its false match rate."""


@dataclass(frozen=True)
class Gallery:
    """Clear images of people, as the judge sees them.

    Attributes:
        embeddings: (n, D), unit length.
        people: (n,) whose they are.
        thresholds: by the name of a success rate, the least similarity that is a match.
    """

    embeddings: np.ndarray
    people: np.ndarray
    thresholds: dict[str, float]


@torch.inference_mode()
def judged(judge: Recogniser, images: Tensor, batch_size: int = 50) -> np.ndarray:
    """(n, D) float32, unit length, of images (n, 3, 112, 112) uint8 RGB."""
    device = next(judge.parameters()).device
    return torch.cat([judge(batch.to(device)).cpu() for batch in images.split(batch_size)]).numpy()


def make_gallery(embeddings: np.ndarray, people: np.ndarray) -> Gallery:
    """The gallery of clear images, with the thresholds that strangers among them give.

    Raises:
        ValueError: too few people to find the strictest threshold, or somebody with a single image.
    """
    names, counts = np.unique(people, return_counts=True)
    alone = names[counts < 2]
    if len(alone):
        raise ValueError(f"{len(alone)} people have a single image, so that there is no other to be recognised by")
    strangers = people[:, None] != people[None, :]
    similarity = (embeddings @ embeddings.T)[strangers & np.tri(len(people), k=-1, dtype=bool)]
    needed = round(3 / min(FMRS.values()))
    if len(similarity) < needed:
        raise ValueError(
            f"{len(names)} people with {len(people)} images give {len(similarity)} pairs of strangers: a false match "
            f"rate of {min(FMRS.values())} needs {needed}; hold out more people"
        )
    thresholds = {name: threshold_at(similarity, fmr) for name, fmr in FMRS.items()}
    return Gallery(embeddings, people, thresholds)


def threshold_at(impostor: np.ndarray, fmr: float) -> float:
    """The least similarity at which no more than a share `fmr` of the impostor scores (n,) matches."""
    allowed = int(fmr * len(impostor) + 1e-9)
    descending = np.sort(impostor)[::-1]
    return float(np.nextafter(descending[allowed], np.inf))


def reidentify(embeddings: np.ndarray, gallery: Gallery) -> dict[str, np.ndarray]:
    """Per image: "cosine" to its own image, the success rates of `FMRS` and "rank1", each (n,) float64.

    A success rate is the share of the person's other images that the reconstruction matches; rank1 is 1 where the most
    similar of all other images is the person's.

    Args:
        embeddings: (n, D) of the reconstructions, in the gallery's order.
        gallery: clear images.
    """
    similarity = (embeddings @ gallery.embeddings.T).astype(np.float64)
    own = np.eye(len(similarity), dtype=bool)
    mated = (gallery.people[:, None] == gallery.people[None, :]) & ~own
    rates = {
        name: ((similarity >= threshold) & mated).sum(1) / mated.sum(1)
        for name, threshold in gallery.thresholds.items()
    }
    nearest = np.where(own, -np.inf, similarity).argmax(axis=1)
    rank1 = (gallery.people[nearest] == gallery.people).astype(float)
    return {"cosine": similarity[own], **rates, "rank1": rank1}
