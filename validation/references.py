"""Published accuracies of the recognisers on clear pictures, to set a run's own beside."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Reference:
    """Accuracies that the authors of a recogniser published."""

    weights: str
    """Which weights they hold for."""
    accuracies: dict[str, float]
    """By validation set, 0 to 1."""


SOURCE = (
    "the table of high-quality validation sets in AdaFace's README (Kim et al., CVPR 2022; GitHub mk-minchul/AdaFace)"
)
CONDITIONS = "aligned 112x112 pictures in BGR, 10 folds, embeddings of picture and mirror image fused (--flip)"

REFERENCES = {
    "ir_50": Reference(
        "AdaFace R50 trained on WebFace4M",
        {"lfw": 0.9978, "cfp_fp": 0.9897, "cplfw": 0.9417, "calfw": 0.9598, "agedb_30": 0.9778},
    ),
    "ir_101": Reference(
        "AdaFace R100 trained on WebFace12M",
        {"lfw": 0.9982, "cfp_fp": 0.9926, "cplfw": 0.9457, "calfw": 0.9612, "agedb_30": 0.9800},
    ),
}
"""By name of the recogniser. The same name with other weights is not what was published: see `Reference.weights`."""


def reference_accuracy(recogniser: str, dataset: str) -> float | None:
    """The published accuracy, 0 to 1, or None."""
    found = REFERENCES.get(recogniser)
    return found.accuracies.get(dataset) if found else None


def describe(recogniser: str) -> str:
    """What the published accuracies of a recogniser in `REFERENCES` hold for and where they stand, in a sentence."""
    return f"Published: {REFERENCES[recogniser].weights}, {CONDITIONS}; from {SOURCE}."
