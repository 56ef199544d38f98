"""Published accuracies of AdaFace's weights on clear images, for comparison."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


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
CONDITIONS = "aligned 112x112 images in BGR, 10 folds, embeddings of image and mirror image fused (--flip)"

_SETS = ("lfw", "cfp_fp", "cplfw", "calfw", "agedb_30")
_FILE_MARK = "adaface"
_TRAINING_SETS = {
    "casia": "CASIA-WebFace",
    "vgg": "VGGFace2",
    "ms1mv2": "MS1MV2",
    "ms1mv3": "MS1MV3",
    "webface4m": "WebFace4M",
    "webface12m": "WebFace12M",
}
"""What AdaFace's checkpoints were trained on, by what stands in their files' names (adaface_ir50_webface4m.ckpt)."""
_PUBLISHED = {
    ("ir_18", "casia"): (0.9913, 0.9259, 0.8700, 0.9265, 0.9272),
    ("ir_18", "vgg"): (0.9947, 0.9713, 0.9172, 0.9390, 0.9407),
    ("ir_18", "webface4m"): (0.9953, 0.9726, 0.9228, 0.9552, 0.9647),
    ("ir_50", "casia"): (0.9942, 0.9641, 0.8997, 0.9323, 0.9438),
    ("ir_50", "ms1mv2"): (0.9982, 0.9786, 0.9283, 0.9607, 0.9785),
    ("ir_50", "webface4m"): (0.9978, 0.9897, 0.9417, 0.9598, 0.9778),
    ("ir_101", "ms1mv2"): (0.9982, 0.9849, 0.9353, 0.9608, 0.9805),
    ("ir_101", "ms1mv3"): (0.9978, 0.9891, 0.9393, 0.9602, 0.9817),
    ("ir_101", "webface4m"): (0.9980, 0.9917, 0.9463, 0.9605, 0.9790),
    ("ir_101", "webface12m"): (0.9982, 0.9926, 0.9457, 0.9612, 0.9800),
}
"""Accuracies on `_SETS`, by recogniser and training set."""


def find_reference(recogniser: str, weights: Path) -> Reference | None:
    """Find the accuracies published for a recogniser with these weights.

    AdaFace gives several checkpoints for one network, which differ by points; the file's name tells which it is. None
    where it does not, or where nothing was published.

    Args:
        recogniser: key of `torchkit.backbone.NETWORKS`.
        weights: its checkpoint.
    """
    name = weights.name.lower()
    marks = [mark for mark in _TRAINING_SETS if _FILE_MARK in name and mark in name]
    if len(marks) != 1 or (recogniser, marks[0]) not in _PUBLISHED:
        return None
    accuracies = dict(zip(_SETS, _PUBLISHED[recogniser, marks[0]], strict=True))
    return Reference(f"AdaFace {recogniser} trained on {_TRAINING_SETS[marks[0]]}", accuracies)


def describe(reference: Reference) -> str:
    """Describe in a sentence which weights the published accuracies are of, and their source."""
    return f"Published: {reference.weights} (told by the name of its file), {CONDITIONS}; from {SOURCE}."
