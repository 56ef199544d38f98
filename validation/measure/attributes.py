"""Attributes: whether a probe reads age, glasses or a beard off what is observed.

Labels come in the form of CelebA's list_attr_celeba.txt: how many images, the attributes' names, then a line an image
of its name and -1 or 1 for each attribute.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torchmetrics.functional.classification import binary_recall, binary_specificity

FEWEST_OF_A_KIND = 10
"""Images with and without an attribute, in training and among the held-out ones, or it is left out."""
ITERATIONS = 100


@dataclass(frozen=True)
class AttributeProbe:
    """Balanced accuracies, 0.5 (chance) to 1, by attribute; those with too few faces of a kind are left out."""

    observation: str
    accuracies: dict[str, float]


def read_attributes(path: Path) -> tuple[list[str], dict[str, np.ndarray]]:
    """The attributes' names, and by image name (A,) bool, whether the face has them.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it has another form.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} not found: give CelebA's list_attr_celeba.txt, or labels in its form")
    lines = path.read_text(encoding="utf-8").splitlines()
    names = lines[1].split() if len(lines) > 1 else []
    labels = {}
    for number, line in enumerate(lines[2:], start=3):
        image, *values = line.split()
        if len(values) != len(names) or not set(values) <= {"-1", "1"}:
            raise ValueError(f"{path}, line {number}: expected a name and {len(names)} times -1 or 1")
        labels[image] = np.array(values) == "1"
    if not labels:
        raise ValueError(f"{path} holds no labels: expected a count, a line of names, then a line an image")
    return names, labels


def attribute_labels(labels: Mapping[str, np.ndarray], images: Sequence[str], path: Path) -> np.ndarray:
    """(n, A) bool of images, by their path in the index or their file's name.

    Raises:
        ValueError: an image without labels.
    """
    found = [labels.get(image, labels.get(Path(image).name)) for image in images]
    for image, own in zip(images, found, strict=True):
        if own is None:
            raise ValueError(f"{path} has no labels of {image}; give labels of these faces")
    return np.stack([own for own in found if own is not None])


Labelled = tuple[np.ndarray, np.ndarray]
"""(n, ...) what is observed, and (n, A) bool."""


def probe(observation: str, names: Sequence[str], train: Labelled, held_out: Labelled) -> AttributeProbe:
    """How well a probe reads attributes of other people off an observation."""
    (seen, labels), (seen_later, later_labels) = train, held_out
    flat = (array.reshape(len(array), -1).astype(np.float32) for array in (seen, seen_later))
    accuracies = balanced_accuracies(next(flat), labels, next(flat), later_labels)
    known = {name: float(value) for name, value in zip(names, accuracies, strict=True) if not np.isnan(value)}
    return AttributeProbe(observation, known)


def balanced_accuracies(
    train: np.ndarray, train_labels: np.ndarray, held_out: np.ndarray, held_out_labels: np.ndarray, decay: float = 1e-2
) -> np.ndarray:
    """Balanced accuracy of a logistic regression for each attribute; nan where there are too few faces of a kind.

    Args:
        train: (n, D) what is observed, to learn from.
        train_labels: (n, A) bool.
        held_out: (m, D), of other people.
        held_out_labels: (m, A) bool.
        decay: of the squared weights.

    Returns:
        (A,) from 0.5 (chance) to 1.
    """
    logits = probe_logits(train, train_labels, held_out, decay)
    return np.array([
        _balanced(logits[:, column], held_out_labels[:, column])
        if _enough(train_labels[:, column], held_out_labels[:, column])
        else np.nan
        for column in range(train_labels.shape[1])
    ])  # fmt: skip


def probe_logits(train: np.ndarray, train_labels: np.ndarray, held_out: np.ndarray, decay: float) -> torch.Tensor:
    """(m, A), above 0 where the probe sees an attribute; arguments as `balanced_accuracies`."""
    mean, deviation = train.mean(0), train.std(0) + 1e-6
    inputs = torch.from_numpy(((train - mean) / deviation).astype(np.float32))
    targets = torch.from_numpy(train_labels.astype(np.float32))
    layer = torch.nn.Linear(inputs.shape[1], targets.shape[1])
    torch.nn.init.zeros_(layer.weight)
    torch.nn.init.zeros_(layer.bias)
    positive = targets.mean(0).clamp(1e-3, 1 - 1e-3)
    weights = torch.where(targets > 0, 0.5 / positive, 0.5 / (1 - positive))  # both kinds count alike
    optimizer = torch.optim.LBFGS(layer.parameters(), max_iter=ITERATIONS, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = F.binary_cross_entropy_with_logits(layer(inputs), targets, weights)
        loss = loss + decay * layer.weight.square().sum() / targets.shape[1]
        loss.backward()
        return loss

    optimizer.step(closure)
    with torch.no_grad():
        return layer(torch.from_numpy(((held_out - mean) / deviation).astype(np.float32)))


def _balanced(logits: torch.Tensor, labels: np.ndarray) -> float:
    decided, truth = (logits > 0).long(), torch.from_numpy(labels).long()
    return float((binary_recall(decided, truth) + binary_specificity(decided, truth)) / 2)


def _enough(train_labels: np.ndarray, held_out_labels: np.ndarray) -> bool:
    counts = [labels.sum() for labels in (train_labels, ~train_labels, held_out_labels, ~held_out_labels)]
    return min(counts) >= FEWEST_OF_A_KIND
