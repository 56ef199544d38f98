"""Whether two messages are of one person: how far the scores of mated and of non-mated messages lie apart.

Both measures compare the distributions of a score over mated pairs (one person) and non-mated pairs (two), from 0 (the
score tells nothing) to 1 (it tells all).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

MOST_PLACES = 7
"""Along either side of a block, whose inner products are compared."""
BINS = 100
"""At most; as many as give a bin ten scores of the smaller sample on average."""


def global_linkability(mated: np.ndarray, non_mated: np.ndarray, prior_ratio: float = 1.0) -> float:
    """D_sys (Gomez-Barrero et al., IEEE TIFS 2018, equations 9 to 12).

    The local measure of a score s is D(s) = 2 LR w / (1 + LR w) - 1 where the likelihood ratio LR = p(s | mated) /
    p(s | non-mated) times w exceeds 1, else 0; D_sys is its mean over the mated scores.

    Args:
        mated: (n,) scores of pairs of one person.
        non_mated: (m,) scores of pairs of two people.
        prior_ratio: w, how much likelier an attacker deems a pair to be mated, beforehand.

    Raises:
        ValueError: as `score_histograms`.
    """
    p_mated, p_non_mated = score_histograms(mated, non_mated)
    weighted = prior_ratio * p_mated
    total = weighted + p_non_mated
    local = np.where(weighted > p_non_mated, 2 * weighted / np.where(total > 0, total, 1) - 1, 0.0)
    return float((p_mated * local).sum())


def maximal_linkability(mated: np.ndarray, non_mated: np.ndarray) -> float:
    """Maximal leakage from "mated or not" to the score, in bits (Shahreza et al., IEEE TIFS 2023).

    log2 of the integral of max(p(s | mated), p(s | non-mated)): 0 where both are alike, 1 where they do not overlap.

    Raises:
        ValueError: as `score_histograms`.
    """
    return float(np.log2(np.maximum(*score_histograms(mated, non_mated)).sum()))


def score_histograms(mated: np.ndarray, non_mated: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Shares of either sample in common bins of equal width.

    Raises:
        ValueError: fewer than 20 scores of a kind, or some that are not finite.
    """
    fewest = min(len(mated), len(non_mated))
    if fewest < 20:
        raise ValueError(
            f"{len(mated)} mated and {len(non_mated)} non-mated scores: a distribution needs at least 20 of each; give "
            "more images a person, or more people"
        )
    scores = np.concatenate([mated, non_mated])
    if not np.isfinite(scores).all():
        raise ValueError("scores that are not finite: features of this client have no similarity to compare")
    edges = np.linspace(scores.min(), scores.max() or 1.0, min(BINS, fewest // 10) + 1)
    if edges[0] == edges[-1]:  # all scores alike tell nothing
        return np.ones(1), np.ones(1)
    return np.histogram(mated, edges)[0] / len(mated), np.histogram(non_mated, edges)[0] / len(non_mated)


def direct_scores(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(n, m) cosine similarity of features (n, D) and (m, D), value by value.

    What is common to all messages of a side is taken out first.
    """
    return _unit(first - first.mean(0)) @ _unit(second - second.mean(0)).T


def order_free(features: np.ndarray, blocks_per_side: int = 1) -> np.ndarray:
    """What no permutation of a block's channels changes: its places' inner products over the channels.

    Neighbours in blocks of more than 7x7 places are averaged first, if that divides them.

    Args:
        features: (n, C, H, W).
        blocks_per_side: into how many blocks with an order of their own the map is cut, along either side.

    Returns:
        (n, D) float32.
    """
    count, channels, height, width = features.shape
    rows, columns = height // blocks_per_side, width // blocks_per_side
    fold = max(1, rows // MOST_PLACES) if rows % MOST_PLACES == 0 and columns == rows else 1
    if fold > 1:
        shape = (count, channels, height // fold, fold, width // fold, fold)
        features, rows, columns = features.reshape(shape).mean(axis=(3, 5)), rows // fold, columns // fold
    blocks = features.reshape(count, channels, blocks_per_side, rows, blocks_per_side, columns)
    blocks = blocks.transpose(0, 2, 4, 1, 3, 5).reshape(count, -1, channels, rows * columns).astype(np.float32)
    products = blocks.transpose(0, 1, 3, 2) @ blocks / channels  # (n, blocks, places, places)
    upper = np.triu_indices(rows * columns)
    return products[:, :, upper[0], upper[1]].reshape(count, -1)


def split_scores(
    scores: np.ndarray, people: np.ndarray, other_people: np.ndarray, within: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Mated and non-mated scores of a table (n, m).

    Args:
        scores: of each of n with each of m.
        people: (n,) whose the first are.
        other_people: (m,) whose the others are.
        within: both are the same messages, each pair of which counts once, and none with itself.
    """
    same = people[:, None] == other_people[None, :]
    compared = np.tri(scores.shape[0], scores.shape[1], k=-1, dtype=bool) if within else np.ones_like(same)
    return scores[same & compared], scores[~same & compared]


def averaged(
    features: np.ndarray, people: np.ndarray, count: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Means of disjoint groups of `count` messages of one person each.

    Returns:
        (k, ...) means, and (k,) whose they are.

    Raises:
        ValueError: nobody has twice `count` messages, so that no two means could be compared.
    """
    means, owners = [], []
    for person in np.unique(people):
        own = rng.permutation(np.flatnonzero(people == person))
        for start in range(0, len(own) - count + 1, count):
            means.append(features[own[start : start + count]].astype(np.float32).mean(0))
            owners.append(person)
    if len(owners) == len(set(owners)):
        raise ValueError(f"averages of {count} messages: nobody has {2 * count} messages; average fewer")
    return np.stack(means), np.array(owners)


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


@dataclass(frozen=True)
class Linkage:
    """How well messages are linked by one way of comparing them."""

    keys: int
    """1: both messages under one key; 2: each under its own."""
    score: str
    """direct: value by value; order_free: by what no permutation of channels changes."""
    messages: int
    """Of one person that are averaged before they are compared."""
    d_sys: float
    maximal: float
    chance: float
    """D_sys where people are mixed up: what few people make of scores that tell nothing."""


def measure_linkage(
    maps: Sequence[np.ndarray], other_key: Sequence[np.ndarray] | None, blocks: Sequence[int], people: np.ndarray,
    counts: Sequence[int], seed: int = 0,
) -> list[Linkage]:  # fmt: skip
    """Linkability of messages by their features alone.

    Args:
        maps: of each tap that is sent, features (n, C, H, W) under one key.
        other_key: the same faces' under another; None: the client has no key.
        blocks: of each tap, its blocks of a channel order of their own along either side.
        people: (n,) whose they are.
        counts: how many messages of one person are averaged.
        seed: of which ones.
    """
    sides: list[tuple[str, np.ndarray, np.ndarray | None]] = [("direct", _flat(maps), None)]
    if other_key is not None:
        sides = [
            ("direct", _flat(maps), _flat(other_key)),
            ("order_free", _order_free(maps, blocks), _order_free(other_key, blocks)),
        ]
    found = []
    for score, own, other in sides:
        for count in counts:
            rng = np.random.default_rng([seed, count])
            means, owners = averaged(own, people, count, rng)
            found.append(_linkage(1, score, count, direct_scores(means, means), owners, owners, within=True))
            if other is not None:
                other_means, other_owners = averaged(other, people, count, rng)
                scores = direct_scores(means, other_means)
                found.append(_linkage(2, score, count, scores, owners, other_owners, within=False))
    return found


def _linkage(
    keys: int, score: str, count: int, scores: np.ndarray, people: np.ndarray, other_people: np.ndarray, within: bool
) -> Linkage:
    split = split_scores(scores, people, other_people, within)
    names = np.unique(people)
    moved = np.roll(names, 1)[np.searchsorted(names, other_people)]  # everybody is taken for somebody else
    mixed_up = split_scores(scores, people, moved, within=False)
    measures = (global_linkability(*split), maximal_linkability(*split), global_linkability(*mixed_up))
    return Linkage(keys, score, count, *measures)


def _flat(maps: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate([taps.reshape(len(taps), -1) for taps in maps], axis=1).astype(np.float32)


def _order_free(maps: Sequence[np.ndarray], blocks: Sequence[int]) -> np.ndarray:
    return np.concatenate([order_free(taps, sides) for taps, sides in zip(maps, blocks, strict=True)], axis=1)
