"""Paired distillation: a student maps messages straight to another recogniser's embedding.

As FaceLinkGen (arXiv 2602.02914) it needs no image: who holds pairs of messages and faces links a message to a face
database of that other recogniser. The student is the server's own network from the last map that the features
compensate on, with a linear layer behind it; what counts is how many pairs it needs.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchkit.attack.recording import RecordedFaces, as_input
from torchkit.backbone import NUM_TAPS, Backbone
from torchkit.util.seeding import stream
from validation.measure.reidentification import Gallery, reidentify

BATCH = 32
RATE = 1e-3
FEWEST_PAIRS = 2 * BATCH


@dataclass(frozen=True)
class Distillation:
    """How a student that learned from so many pairs does on people that it has never seen.

    The rates are those of re-identification against other images: see validation.measure.reidentification.
    """

    pairs: int
    seed: int
    rates: dict[str, float]


class Student(nn.Module):
    """A recogniser from one of its taps on, and a linear map to another recogniser's embedding.

    Args:
        backbone: of the recogniser; copied, and trained.
        tap: 1..4, whose compensated map it is given.
        target_size: of the other embedding.

    Shape: (B, C, H, W) -> (B, target_size), unit length.
    """

    def __init__(self, backbone: Backbone, tap: int, target_size: int) -> None:
        super().__init__()
        self.backbone, self.tap = copy.deepcopy(backbone).requires_grad_(True), tap
        self.head = nn.Linear(backbone.embedding_size, target_size)

    def forward(self, maps: Tensor) -> Tensor:
        for segment in range(self.tap, NUM_TAPS + 1):
            maps = self.backbone.run_segment(segment, maps)
        return F.normalize(self.head(F.normalize(maps)))


def distil(
    backbone: Backbone, tap: int, maps: np.ndarray, targets: np.ndarray, held_out: RecordedFaces, gallery: Gallery,
    steps: int, seed: int, device: torch.device,
) -> Distillation:  # fmt: skip
    """Train a student on pairs and measure it.

    Args:
        backbone: of the recogniser that it starts from.
        tap: 1..4, whose compensated maps are given.
        maps: (n, C, H, W), those of the messages.
        targets: (n, D), the other recogniser's embeddings of the clear images.
        held_out: messages of people that the student has never seen.
        gallery: their clear images, as the other recogniser sees them.
        steps: of the training.
        seed: of weights and of the order of the pairs.
        device: to compute on.
    """
    torch.manual_seed(seed)
    student = train_student(Student(backbone, tap, targets.shape[1]), maps, targets, steps, seed, device)
    measures = reidentify(embed_messages(student, held_out, device), gallery)
    return Distillation(len(maps), seed, {name: float(values.mean()) for name, values in measures.items()})


def train_student(
    student: Student, maps: np.ndarray, targets: np.ndarray, steps: int, seed: int, device: torch.device
) -> Student:
    """Minimise 1 - cosine between the student's embeddings and the targets.

    Args:
        student: in evaluation mode afterwards; its batch norms keep their statistics throughout.
        maps: (n, C, H, W), compensated maps of the messages.
        targets: (n, D), the other recogniser's embeddings of the clear images.
        steps: of AdamW.
        seed: of the order of the pairs.
        device: to train on.

    Raises:
        ValueError: too few pairs.
    """
    if len(maps) < FEWEST_PAIRS:
        raise ValueError(f"{len(maps)} pairs to distil from: a student needs at least {FEWEST_PAIRS}")
    student.to(device).eval()
    optimizer = torch.optim.AdamW((p for p in student.parameters() if p.requires_grad), lr=RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    rng = stream(seed, "distillation")
    for _ in range(steps):
        chosen = np.sort(rng.choice(len(maps), BATCH, replace=False))
        embeddings = student(as_input(maps[chosen], device))
        loss = 1 - (embeddings * as_input(targets[chosen], device)).sum(dim=1).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
    return student


@torch.inference_mode()
def embed_messages(student: Student, faces: RecordedFaces, device: torch.device) -> np.ndarray:
    """(n, D) float32, the student's embeddings of recorded messages."""
    maps = faces.array(f"server{student.tap}")
    parts = np.array_split(np.arange(len(faces)), -(-len(faces) // 50))
    return torch.cat([student(as_input(maps[part], device)).cpu() for part in parts]).numpy()
