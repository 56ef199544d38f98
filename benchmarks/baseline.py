"""The published way to do the toolkit's work, written anew: what bench.py measures the toolkit against.

PRO-Face C as its paper describes it (Yuan et al., IEEE TIFS 2024, doi 10.1109/TIFS.2024.3388976) and as such code is
commonly written: float tensors throughout, loops over blocks, folds and thresholds, gradients through everything. Each
function says what it stands for. The networks are the toolkit's own, so that only the way they are used differs.

Images are (B, 3, 112, 112) float32 RGB in [-1, 1] here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchkit.backbone import NUM_TAPS, Backbone
from torchkit.data.index import Index
from torchkit.obfuscation import EVALUATION, RandomObfuscation, Strength, assign_cells
from torchkit.system import ProFaceC
from torchkit.util.pixels import HALF_RANGE
from torchkit.util.seeding import content_stream

GAUSSIAN_KERNEL_PX = 31
BLOCK_PX = 28
"""Side of a shuffled block in the published layout."""
SCALE, MARGIN_RAD = 64.0, 0.5
BATCH_ROWS = 64
"""Rows that the published evaluation embeds at once."""


def to_float(images: np.ndarray | Tensor) -> Tensor:
    """(B, 3, H, W) uint8 RGB -> the float images of this module."""
    return torch.as_tensor(images).float() / HALF_RANGE - 1


def to_uint8(images: Tensor) -> np.ndarray:
    """The float images of this module -> (B, 3, H, W) uint8 RGB."""
    return ((images + 1) * HALF_RANGE).round().clamp(0, 255).to(torch.uint8).numpy()


# --- obfuscation: torch filters on float tensors ---


def gaussian(images: Tensor, sigma_px: float) -> Tensor:
    """Gaussian blur as one depth-wise convolution with the whole 31x31 kernel, border reflected."""
    half = GAUSSIAN_KERNEL_PX // 2
    offset = torch.arange(-half, half + 1, dtype=torch.float32)
    line = torch.exp(-offset.square() / (2 * sigma_px**2))
    kernel = torch.outer(line, line)
    kernel = (kernel / kernel.sum()).expand(3, 1, -1, -1)
    return F.conv2d(F.pad(images, (half,) * 4, mode="reflect"), kernel, groups=3)


def median(images: Tensor, kernel_px: int) -> Tensor:
    """Median of every window, all windows unfolded side by side; the border is padded with 0, mid-grey."""
    padded = F.pad(images, (kernel_px // 2,) * 4)
    windows = F.unfold(padded, kernel_px).view(len(images), 3, kernel_px**2, -1)
    return windows.median(dim=2).values.view(images.shape)


def pixelate(images: Tensor, blocks: tuple[int, int]) -> Tensor:
    """Bilinear down to `blocks` without antialiasing, back up by nearest neighbour."""
    small = F.interpolate(images, size=blocks, mode="bilinear", align_corners=False)
    return F.interpolate(small, size=images.shape[-2:], mode="nearest")


def hybrid(images: Tensor, strength: Strength, assignment: np.ndarray) -> Tensor:
    """All three obfuscations of the whole image, of which each cell then shows one.

    Args:
        images: (B, 3, H, W).
        strength: settings of the three.
        assignment: (rows, columns) of "median", "gaussian" or "pixelate".
    """
    layers = {
        "gaussian": gaussian(images, strength.sigma_px),
        "median": median(images, strength.median_kernel_px),
        "pixelate": pixelate(images, strength.blocks),
    }
    out = torch.empty_like(images)
    height, width = images.shape[-2:]
    rows, columns = (
        [round(k * size / cells) for k in range(cells + 1)]
        for size, cells in zip((height, width), assignment.shape, strict=True)
    )
    for r, c in np.ndindex(assignment.shape):
        cell = (..., slice(rows[r], rows[r + 1]), slice(columns[c], columns[c + 1]))
        out[cell] = layers[str(assignment[r, c])][cell]
    return out


def evaluation_hybrid(image: np.ndarray, seed: int) -> Tensor:
    """The hybrid of validation of one (3, H, W) uint8 image, with the cells the toolkit assigns: (1, 3, H, W)."""
    cells = content_stream(np.ascontiguousarray(image.transpose(1, 2, 0)), seed, "hybrid")
    return hybrid(to_float(image[None]), EVALUATION, assign_cells(EVALUATION.grid, cells))


# --- client and server ---


def shuffle(features: Tensor, key: Tensor, block_px: int) -> Tensor:
    """Block channel shuffle as a loop over blocks and channels that writes slices into a new tensor.

    Shape: features (B, C, H, W), key (blocks, C) -> (B, C, H, W).
    """
    out = torch.empty_like(features)
    blocks_a_row = features.shape[-1] // block_px
    for block, sources in enumerate(key.tolist()):
        top, left = block // blocks_a_row * block_px, block % blocks_a_row * block_px
        rows, columns = slice(top, top + block_px), slice(left, left + block_px)
        for channel, source in enumerate(sources):
            out[:, channel, rows, columns] = features[:, source, rows, columns]
    return out


class PublishedSystem(nn.Module):
    """Client and server in the published layout: features are resized to the server's maps before they are sent.

    The server's network is in evaluation mode, but its parameters want gradients like all others.

    Args:
        network: the server's, batch norms as they come.
        backbone: the client's.
        key: (blocks, C) of the first tap, in blocks of 28 pixels.

    Shape: clear and obfuscated images (B, 3, 112, 112) -> embeddings (B, D), unit length.
    """

    def __init__(self, network: Backbone, backbone: Backbone, key: Tensor) -> None:
        super().__init__()
        self.network, self.backbone, self.key = network.eval(), backbone, key
        shapes = network.tap_shapes()
        self.interfaces = nn.ModuleList(
            nn.Sequential(nn.Upsample(shape[1:], mode="bilinear"), nn.Conv2d(tap[0], shape[0], 1))
            for tap, shape in zip(backbone.tap_shapes(), shapes, strict=True)
        )
        self.weights = nn.ParameterList(torch.ones(shape) for shape in shapes)

    def train(self, mode: bool = True) -> PublishedSystem:
        super().train(mode)
        self.network.eval()
        return self

    def copy_weights(self, system: ProFaceC) -> PublishedSystem:
        """Take client, key and compensation weights of the toolkit's system, of published layout."""
        assert system.client.settings.layout == "published"
        extra = self.backbone.load_state_dict(system.client.backbone.state_dict(), strict=False).unexpected_keys
        assert not extra, extra
        for own, other in zip(self.interfaces, system.client.interfaces, strict=True):
            own.get_submodule("1").load_state_dict(other.state_dict())
        self.weights.load_state_dict(system.server.compensation.weights.state_dict())
        self.key = system.client.shuffles["1"].get_buffer("key")
        return self

    def features(self, clear: Tensor, obfuscated: Tensor) -> list[Tensor]:
        taps = self.backbone.taps(clear - obfuscated)
        first, *others = [interface(tap) for interface, tap in zip(self.interfaces, taps, strict=True)]
        return [shuffle(first, self.key, BLOCK_PX), *others]

    def embed(self, images: Tensor) -> Tensor:
        """Without compensation."""
        return F.normalize(self.network(images))

    def forward(self, clear: Tensor, obfuscated: Tensor) -> Tensor:
        x = obfuscated
        for tap, feature in enumerate(self.features(clear, obfuscated)):
            x = self.network.run_segment(tap, x)
            x = x + torch.sigmoid(x) * feature * self.weights[tap]
        return F.normalize(self.network.run_segment(NUM_TAPS, x))


# --- training ---


class PublishedTraining:
    """A training step in float32: nothing is frozen, nothing is kept from one epoch to the next.

    The teacher's embedding of the clear image is not detached, so that the backward pass runs through the server
    twice. The optimiser holds client, compensation weights and head alone: the server's gradients pile up unused.

    Args:
        system: client and server.
        centres: (classes, D) of the ArcFace head.
        lr: learning rate of SGD.
    """

    def __init__(self, system: PublishedSystem, centres: Tensor, lr: float) -> None:
        self.system = system.train()
        self.centres = nn.Parameter(centres)
        parts = (system.backbone, system.interfaces, system.weights)
        trained = [parameter for part in parts for parameter in part.parameters()]
        self.optimizer = torch.optim.SGD([*trained, self.centres], lr=lr, momentum=0.9, weight_decay=5e-4)

    def losses(self, clear: Tensor, obfuscated: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Margin softmax, and the mean squared error to the clear image's embedding."""
        embeddings = self.system(clear, obfuscated)
        target = self.system.embed(clear)
        logits = arcface(embeddings, self.centres, labels)
        return {
            "margin_softmax": F.cross_entropy(logits, labels),
            "distillation": F.mse_loss(embeddings, target),
        }

    def step(self, clear: Tensor, obfuscated: Tensor, labels: Tensor) -> None:
        loss = sum(self.losses(clear, obfuscated, labels).values(), torch.zeros(()))
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()


def arcface(embeddings: Tensor, centres: Tensor, labels: Tensor) -> Tensor:
    """ArcFace's logits as its authors' implementation has them (Deng et al., CVPR 2019): (B, classes)."""
    cosine = F.linear(F.normalize(embeddings), F.normalize(centres))
    sine = torch.sqrt((1 - cosine.square()).clamp(0, 1))
    shifted = cosine * math.cos(MARGIN_RAD) - sine * math.sin(MARGIN_RAD)
    easy = cosine - math.sin(math.pi - MARGIN_RAD) * MARGIN_RAD
    shifted = torch.where(cosine > math.cos(math.pi - MARGIN_RAD), shifted, easy)
    one_hot = F.one_hot(labels, len(centres))
    return SCALE * (one_hot * shifted + (1 - one_hot) * cosine)


def load_batch(
    index: Index, sampler: RandomObfuscation, rng: np.random.Generator, size: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Decode, flip and obfuscate (hybrid) a batch in the main process, on float tensors.

    Returns:
        Clear and obfuscated images (B, 3, 112, 112), labels (B,).
    """
    positions = rng.permutation(len(index))[:size]
    clear, obfuscated = [], []
    for position in positions:
        image = index.read(int(position))
        floats = to_float(image.transpose(2, 0, 1)[None])
        if rng.random() < 0.5:
            floats = floats.flip(-1)
        strength = sampler.strength(floats.shape[-1], rng)
        clear.append(floats)
        obfuscated.append(hybrid(floats, strength, assign_cells(strength.grid, rng)))
    return torch.cat(clear), torch.cat(obfuscated), torch.from_numpy(index.labels[positions])


# --- validation ---


@torch.no_grad()
def embed_rows(system: PublishedSystem, images: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """Embed every row of a set, repeated images as often as they occur, in batches of 64.

    Args:
        system: client and server.
        images: (N, 3, 112, 112) uint8 RGB, an image a row.
        seed: of the hybrid's cells.

    Returns:
        "clear", "obfuscated", "compensated" -> (N, D) float32, unit length.
    """
    embeddings: dict[str, list[Tensor]] = {"clear": [], "obfuscated": [], "compensated": []}
    system.eval()
    for rows in _batches(images):
        clear = to_float(rows)
        obfuscated = torch.cat([evaluation_hybrid(row, seed) for row in rows])
        embeddings["clear"].append(system.embed(clear))
        embeddings["obfuscated"].append(system.embed(obfuscated))
        embeddings["compensated"].append(system(clear, obfuscated))
    return {name: torch.cat(parts).numpy() for name, parts in embeddings.items()}


def _batches(images: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(images), BATCH_ROWS):
        yield images[start : start + BATCH_ROWS]


def k_fold_accuracy(distances: np.ndarray, same: np.ndarray, folds: int) -> tuple[float, float, float]:
    """The LFW protocol as a loop over folds, and in each over 400 thresholds, counting all pairs each time.

    Args:
        distances: (n,) squared L2.
        same: (n,) bool.
        folds: contiguous, the first n % folds with a pair more.

    Returns:
        Mean and standard deviation of the accuracy, mean threshold.
    """
    thresholds = np.arange(0, 4, 0.01)
    parts = np.array_split(np.arange(len(distances)), folds)
    accuracies, chosen = [], []
    for test in parts:
        train = np.setdiff1d(np.arange(len(distances)), test)
        train_distances, train_same = distances[train], same[train]
        scores = [_accuracy(threshold, train_distances, train_same) for threshold in thresholds]
        best = thresholds[np.argmax(scores)]
        chosen.append(best)
        accuracies.append(_accuracy(best, distances[test], same[test]))
    return float(np.mean(accuracies)), float(np.std(accuracies)), float(np.mean(chosen))


def _accuracy(threshold: float, distances: np.ndarray, same: np.ndarray) -> float:
    accepted = distances < threshold
    true_accepts = np.sum(np.logical_and(accepted, same))
    true_rejects = np.sum(np.logical_and(~accepted, ~same))
    return float(true_accepts + true_rejects) / len(same)
