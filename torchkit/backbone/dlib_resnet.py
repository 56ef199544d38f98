"""dlib's face recogniser: a ResNet with 29 convolutions, 150x150 RGB in, 128 numbers out.

Weights: `dlib_face_recognition_resnet_model_v1.dat` by Davis King (public domain, CC0). The file is dlib's own
serialisation; `read_dlib_weights` reads its tensors without running anything from it.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchkit.backbone.base import Backbone
from torchkit.util.pixels import INPUT_SIZE_PX

RGB_MEAN = (122.782, 117.001, 104.298)
PIXEL_SCALE = 256.0
CHIP_SIZE_PX = 150
# Maps a 112x112 ArcFace crop to dlib's 150x150 face chip: a scale about an anchor point.
CHIP_SCALE = 52.55 / 35.237
ARCFACE_ANCHOR_PX = (55.913, 51.599)
CHIP_ANCHOR_PX = (74.0, 47.13)
# (channels, starts with a down block), first to last; taps end the groups of 32, 64, 128 and 256 channels.
GROUPS = ([(32, False)] * 3, [(64, True)] + [(64, False)] * 3, [(128, True)] + [(128, False)] * 2,
          [(256, True)] + [(256, False)] * 2)  # fmt: skip

# Centre of the first cell of the map at each tap in the chip, and the distance between cells. Strided layers have no
# padding: 7x7 stride 2 puts cell i at 2 i + 3, and each 3x3 stride 2 takes the cells 2 i + 1.
TAP_START_PX = (5, 9, 17, 33)
TAP_STRIDE_PX = (4, 8, 16, 32)
# dlib's marker of a layer, and the number of integers between it and the layer's tensor.
MARKERS = {"con_4": 0, "affine_": 0, "fc_2": 2}


class FaceChip(nn.Module):
    """Warp an ArcFace-aligned crop to dlib's face chip and normalise it; differentiable.

    Shape: (B, 3, 112, 112) RGB in [-1, 1] -> (B, 3, 150, 150), (value in 0..255 - mean) / 256.
    """

    grid: Tensor
    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        pixels = torch.arange(CHIP_SIZE_PX)
        self.register_buffer("grid", _crop_grid(pixels, pixels), persistent=False)
        self.register_buffer("mean", torch.tensor(RGB_MEAN).view(1, 3, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        grid = self.grid.to(x.dtype).expand(x.shape[0], -1, -1, -1)
        chip = F.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=False)
        return ((chip + 1) * 127.5 - self.mean) / PIXEL_SCALE


def _crop_grid(rows_px: Tensor, columns_px: Tensor) -> Tensor:
    """(1, rows, columns, 2): for points of the chip the (x, y) of the 112x112 crop, its edges at -1 and 1."""
    axes = []
    for chip_px, crop_anchor, chip_anchor in zip((columns_px, rows_px), ARCFACE_ANCHOR_PX, CHIP_ANCHOR_PX, strict=True):
        crop_px = (chip_px.double() - chip_anchor) / CHIP_SCALE + crop_anchor
        axes.append((crop_px + 0.5) / INPUT_SIZE_PX * 2 - 1)
    y, x = torch.meshgrid(axes[1], axes[0], indexing="ij")
    return torch.stack([x, y], dim=-1).float().unsqueeze(0)


class Affine(nn.Module):
    """dlib's `affine_`: a frozen batch norm, one scale and one shift a channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(channels))
        self.shift = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale.view(1, -1, 1, 1) + self.shift.view(1, -1, 1, 1)


class DlibBlock(nn.Module):
    """relu(shortcut + affine(conv(relu(affine(conv(x)))))); a down block halves the size without padding."""

    def __init__(self, in_channels: int, channels: int, down: bool) -> None:
        super().__init__()
        self.down = down
        stride, padding = (2, 0) if down else (1, 1)
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding)
        self.affine1 = Affine(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1)
        self.affine2 = Affine(channels)

    def forward(self, x: Tensor) -> Tensor:
        out = self.affine2(self.conv2(F.relu(self.affine1(self.conv1(x)))))
        if not self.down:
            return F.relu(out + x)
        return F.relu(_add_padded(out, F.avg_pool2d(x, 2, 2)))


def _add_padded(a: Tensor, b: Tensor) -> Tensor:
    """Sum of two maps, each padded with zeros at the end to the larger channels, height and width."""
    shape = [max(p, q) for p, q in zip(a.shape[1:], b.shape[1:], strict=True)]

    def pad(m: Tensor) -> Tensor:
        c, h, w = (want - have for want, have in zip(shape, m.shape[1:], strict=True))
        return F.pad(m, (0, w, 0, h, 0, c))

    return pad(a) + pad(b)


class DlibResNet(Backbone):
    """dlib's recogniser, fed with this project's 112x112 crops.

    Shape: (B, 3, 112, 112) RGB in [-1, 1], ArcFace-aligned -> (B, 128). Taps: the ends of the groups of 32
    (35x35), 64 (17x17), 128 (8x8) and 256 channels (4x4 in a 150x150 chip, before the last down block).
    """

    def __init__(self, embedding_size: int = 128) -> None:
        super().__init__()
        if embedding_size != 128:
            raise ValueError(f"dlib_resnet: embedding size {embedding_size} is not available; the network gives 128")
        self.embedding_size = embedding_size
        self.chip = FaceChip()
        self.conv1 = nn.Conv2d(3, 32, 7, 2)
        self.affine1 = Affine(32)
        self.relu = nn.ReLU()
        self.pool = nn.MaxPool2d(3, 2)
        groups, in_channels = [], 32
        for group in GROUPS:
            blocks = []
            for channels, down in group:
                blocks.append(DlibBlock(in_channels, channels, down))
                in_channels = channels
            groups.append(nn.Sequential(*blocks))
        self.groups = nn.ModuleList(groups)
        self.last = DlibBlock(256, 256, down=True)
        self.mean = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(256, 128, bias=False)

    def segments(self) -> Sequence[Sequence[nn.Module]]:
        stem = [self.chip, self.conv1, self.affine1, self.relu, self.pool]
        groups = [[group] for group in self.groups]
        return [stem + groups[0], *groups[1:], [self.last, self.mean, self.flatten, self.fc]]

    def align(self, tap: int, features: Tensor, size: Sequence[int]) -> Tensor:
        """Sample features in the crop's frame at the points of the chip that the map's cells are centred on."""
        cells_px = [TAP_START_PX[tap] + TAP_STRIDE_PX[tap] * torch.arange(count) for count in size]
        grid = _crop_grid(*cells_px).to(features.device, features.dtype).expand(features.shape[0], -1, -1, -1)
        return F.grid_sample(features, grid, mode="bilinear", padding_mode="border", align_corners=False)

    def layers(self) -> Iterator[nn.Module]:
        """Iterate over convolutions, affines and the final linear layer, from input to output."""
        return (m for m in self.modules() if isinstance(m, nn.Conv2d | Affine | nn.Linear))


def read_dlib_weights(path: Path) -> dict[str, Tensor]:
    """Read a state dict of `DlibResNet` from dlib's `.dat` file.

    Raises:
        ValueError: the file is not a dlib ResNet of this layout.
    """
    model = DlibResNet()
    layers_read = list(_dlib_tensors(path.read_bytes()))
    wanted = list(model.layers())
    if len(layers_read) != len(wanted):
        raise ValueError(f"{path}: {len(layers_read)} layers found, {len(wanted)} expected of dlib's face recogniser")
    for number, (layer, (marker, values)) in enumerate(zip(wanted, layers_read, strict=True), start=1):
        _fill_layer(layer, marker, values, f"{path}: layer {number} ({marker})")
    return model.state_dict()


def _fill_layer(layer: nn.Module, marker: str, values: np.ndarray, where: str) -> None:
    kind = {nn.Conv2d: "con_4", Affine: "affine_", nn.Linear: "fc_2"}[type(layer)]
    tensors = list(layer.parameters())  # conv: filters, biases; affine: scale, shift; linear: weight
    size = sum(t.numel() for t in tensors)
    if marker != kind or values.size != size:
        raise ValueError(f"{where}: {values.size} values, expected {kind} with {size}")
    if not np.isfinite(values).all():
        raise ValueError(f"{where}: holds values that are not finite")
    flat = torch.from_numpy(values.copy())
    with torch.no_grad():
        if isinstance(layer, nn.Linear):  # stored as inputs x outputs
            layer.weight.copy_(flat.view(layer.in_features, layer.out_features).t())
            return
        for tensor, part in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
            tensor.copy_(part.view_as(tensor))


def _dlib_tensors(data: bytes) -> Iterator[tuple[str, np.ndarray]]:
    """(marker, values) of each layer that has parameters, in file order."""
    position = 0
    while hits := [hit for marker in MARKERS if (hit := _find_marker(data, marker, position))]:
        start, marker = min(hits)
        tensor = _read_tensor(data, start, skip=MARKERS[marker])
        if tensor is None:
            position = start
            continue
        values, position = tensor
        yield marker, values


def _find_marker(data: bytes, marker: str, position: int) -> tuple[int, str] | None:
    """Find the next `marker`, a length-prefixed string, and return the position after it."""
    raw = bytes([1, len(marker)]) + marker.encode()
    start = data.find(raw, position)
    return (start + len(raw), marker) if start >= 0 else None


def _read_tensor(data: bytes, position: int, skip: int) -> tuple[np.ndarray, int] | None:
    """Tensor (version 2, samples, k, rows, columns, float32...) after `skip` integers: values and end, or None."""
    header: list[int] = []
    for _ in range(skip + 5):
        number = _read_integer(data, position)
        if number is None:
            return None
        value, position = number
        header.append(value)
    version, *sizes = header[skip:]
    count = math.prod(sizes)
    if version != 2 or count < 0 or position + 4 * count > len(data):
        return None
    return np.frombuffer(data, "<f4", count, position), position + 4 * count


def _read_integer(data: bytes, position: int) -> tuple[int, int] | None:
    """dlib's integer: one size byte (high bit: negative), then that many little-endian bytes."""
    if position >= len(data):
        return None
    size, negative = data[position] & 0x0F, data[position] & 0x80
    if size > struct.calcsize("q") or position + 1 + size > len(data):
        return None
    value = int.from_bytes(data[position + 1 : position + 1 + size], "little")
    return (-value if negative else value), position + 1 + size
