"""What a client's features show beyond what they must: excess over the attack on obfuscated image and embedding.

Differences are paired, image by image, and their intervals come from a bootstrap that resamples people, whose images
are not independent, and with them the attackers' seeds (percentiles; Efron, 1979).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from torchkit.util.settings import Group, NonNegative

METRICS = ("ssim", "psnr", "cosine", "tar_fmr_1e-2", "tar_fmr_1e-3", "rank1")
"""Leakage by name: higher is worse for the person."""
KINDS: Mapping[str, str] = {"operational": "O+Z", "conditional": "O+e+Z"}
"""Kind of excess -> the observation whose attack is compared with that on O+e."""
NECESSARY = "O+e"
LEVEL = 0.95


class Margins(Group):
    """Below which an excess counts as none."""

    ssim: NonNegative = 0.01
    cosine: NonNegative = 0.01
    rate: NonNegative = 0.01
    """Of success rates and rank-1: 0.01 is a point."""

    def of(self, metric: str) -> float | None:
        """The margin of a metric; None where there is none."""
        return {"ssim": self.ssim, "cosine": self.cosine, "psnr": None}.get(metric, self.rate)


@dataclass(frozen=True)
class Excess:
    """Mean paired difference of a leakage metric, with its 95 % interval."""

    kind: str
    metric: str
    value: float
    low: float
    high: float

    def is_none(self, margin: float) -> bool:
        """Whether "no excess" may be said: the whole interval lies below the margin."""
        return self.high < margin


def paired_excess(
    kind: str, metric: str, more: np.ndarray, less: np.ndarray, people: np.ndarray, resamples: int = 2000, seed: int = 0
) -> Excess:
    """Excess of one attack over another on the same images, with the same seeds.

    Args:
        kind: of excess.
        metric: that was measured.
        more: (S, n), a row an attacker's seed, the metric on each image of the attack that sees more.
        less: (S, n), of the other.
        people: (n,) whose the images are.
        resamples: of the bootstrap.
        seed: of its draws.
    """
    by_person = person_means(more - less, people)  # (S, P, 2): sums and counts
    rng = np.random.default_rng([seed, len(people)])
    means = resampled_means(by_person, resamples, rng)
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Excess(kind, metric, float((more - less).mean()), float(low), float(high))


def person_means(values: np.ndarray, people: np.ndarray) -> np.ndarray:
    """(S, P, 2): sum and count of each person's values, of (S, n)."""
    masks = people[None, :] == np.unique(people)[:, None]  # (P, n)
    sums = values @ masks.T
    return np.stack([sums, np.broadcast_to(masks.sum(1), sums.shape)], axis=-1)


def resampled_means(by_person: np.ndarray, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """(resamples,) means over images of people and seeds drawn with replacement."""
    seeds, people, _ = by_person.shape
    seed_draws = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=resamples)  # how often each is drawn
    person_draws = rng.multinomial(people, np.full(people, 1 / people), size=resamples)
    totals = np.einsum("rs,rp,spk->rk", seed_draws, person_draws, by_person, optimize=True)
    return totals[:, 0] / totals[:, 1]


def all_excesses(measures: Mapping[str, Sequence[Mapping[str, np.ndarray]]], people: np.ndarray) -> list[Excess]:
    """Every kind of excess in every metric that both sides have.

    Args:
        measures: observation -> for each attacker's seed, metric -> (n,).
        people: (n,) whose the images are.
    """
    if NECESSARY not in measures:
        return []
    found = []
    for kind, observation in KINDS.items():
        for metric in measures[NECESSARY][0] if observation in measures else ():
            more, less = (
                np.stack([of_seed[metric] for of_seed in measures[name]]) for name in (observation, NECESSARY)
            )
            found.append(paired_excess(kind, metric, more, less, people))
    return found
