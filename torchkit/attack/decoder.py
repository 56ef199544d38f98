"""A decoder from what an observer sees of a face back to the clear image.

A U-Net on three scales, 28, 14 and 7 pixels. The obfuscated image enters at 28x28, sixteen pixels a place, and leaves
the same way (sub-pixel convolution, Shi et al., CVPR 2016), so that a step costs little: the network predicts what the
obfuscation took away. Feature maps are injected at their own scale, vectors at 7x7, through adapters that start at
zero: a decoder that gets a new input starts as what it was without it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchkit.util.pixels import INPUT_SIZE_PX

IMAGE = "O"
"""Name of the input that is an image of the face; the decoder adds to it what it lacks."""
SCALES_PX = (28, 14, 7)
PATCH_PX = INPUT_SIZE_PX // SCALES_PX[0]
"""Side of the square of pixels that a place of the largest scale stands for."""


@dataclass(frozen=True)
class InputShape:
    """What an input of a decoder looks like."""

    shape: tuple[int, ...]
    """(C, H, W) of a map or an image, (D,) of a vector."""
    blocks_per_side: int = 1
    """Into how many blocks with a channel order of their own a shuffled map is cut, along either side."""

    @property
    def scale(self) -> int:
        """Index in `SCALES_PX` of where it is injected: the largest that is no larger than the map."""
        if len(self.shape) == 1:
            return len(SCALES_PX) - 1
        fitting = (index for index, size_px in enumerate(SCALES_PX) if size_px <= self.shape[1])
        return next(fitting, len(SCALES_PX) - 1)


def start_at_zero(layer: nn.Module) -> None:
    """Make a layer give zeros until it has learned something."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions and a skip.

    Shape: (B, C, H, W) -> (B, C, H, W).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        start_at_zero(self.second)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(F.leaky_relu(self.first(x), 0.1))


class Standardise(nn.Module):
    """Brings an input's channels, or a vector's values, to mean 0 and deviation 1.

    Shape: (B, C, ...) -> (B, C, ...).
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        per_channel = (shape[0],) + (1,) * (len(shape) - 1)
        self.register_buffer("mean", torch.zeros(per_channel))
        self.register_buffer("scale", torch.ones(per_channel))

    def fit(self, examples: Tensor) -> None:
        """Take mean and deviation from examples (B, C, ...); a channel that never changes becomes zero."""
        others = [dim for dim in range(examples.dim()) if dim != 1]
        deviation, mean = torch.std_mean(examples, dim=others, correction=0)
        self.mean.copy_(mean.view_as(self.mean))
        self.scale.copy_(torch.where(deviation > 1e-6, 1 / deviation.clamp(min=1e-6), 0.0).view_as(self.scale))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) * self.scale


class MapAdapter(nn.Module):
    """1x1 convolution of a map to the decoder's channels, with weights of its own for each block of a shuffled map.

    Shape: (B, C, H, W) -> (B, channels, size_px, size_px).
    """

    def __init__(self, spec: InputShape, channels: int, size_px: int) -> None:
        super().__init__()
        source, self.size_px, self.blocks = spec.shape[0], size_px, spec.blocks_per_side
        self.fold = spec.shape[1] // size_px if spec.shape[1] % size_px == 0 else 1
        self.weight = nn.Parameter(torch.zeros(self.blocks**2, channels, source * self.fold**2))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        if self.fold > 1:
            x = F.pixel_unshuffle(x, self.fold)
        out = F.conv2d(x, self.weight[0, :, :, None, None], self.bias) if self.blocks == 1 else self._blockwise(x)
        if out.shape[-1] != self.size_px:
            out = F.interpolate(out, size=(self.size_px, self.size_px), mode="bilinear", align_corners=False)
        return out

    def _blockwise(self, x: Tensor) -> Tensor:
        rows = [
            torch.cat(
                [
                    F.conv2d(block, self.weight[row * self.blocks + column, :, :, None, None], self.bias)
                    for column, block in enumerate(strip.chunk(self.blocks, dim=3))
                ],
                dim=3,
            )
            for row, strip in enumerate(x.chunk(self.blocks, dim=2))
        ]
        return torch.cat(rows, dim=2)


class VectorAdapter(nn.Module):
    """Linear map of a vector to a map of the decoder's smallest scale.

    Shape: (B, D) -> (B, channels, size_px, size_px).
    """

    def __init__(self, length: int, channels: int, size_px: int) -> None:
        super().__init__()
        self.channels, self.size_px = channels, size_px
        self.linear = nn.Linear(length, channels * size_px**2)
        start_at_zero(self.linear)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x).view(-1, self.channels, self.size_px, self.size_px)


class Decoder(nn.Module):
    """Reconstructs clear images from named inputs.

    A map has two ways in: to its scale of the U-Net, and straight to the pixels that its places stand for, linearly.

    Args:
        inputs: name -> shape; `IMAGE` is the obfuscated image, which may be absent.
        width: channels at 28x28; twice and four times as many at the smaller scales.
        mean_image: (3, 112, 112) in [0, 1]; the starting point where there is no image.

    Shape: name -> (B, *shape), images in [0, 1] -> (B, 3, 112, 112), in [0, 1] but for what overshoots.
    """

    mean_image: Tensor

    def __init__(self, inputs: Mapping[str, InputShape], width: int, mean_image: Tensor) -> None:
        super().__init__()
        self.inputs, self.width = dict(inputs), width
        self.register_buffer("mean_image", mean_image)
        self.channels = [width << scale for scale in range(len(SCALES_PX))]
        self.scale_of = {name: spec.scale for name, spec in inputs.items() if name != IMAGE}
        self.standardise = nn.ModuleDict({name: Standardise(inputs[name].shape) for name in self.scale_of})
        self.adapters = nn.ModuleDict({name: self._adapter(inputs[name]) for name in self.scale_of})
        self.shortcuts = nn.ModuleDict(
            {name: _shortcut(spec) for name, spec in inputs.items() if name != IMAGE and len(spec.shape) == 3}
        )
        patch = 3 * PATCH_PX**2
        self.stem = nn.Conv2d(patch, width, 3, padding=1)
        self.encode = nn.ModuleList(ResidualBlock(channels) for channels in self.channels)
        self.decode = nn.ModuleList(ResidualBlock(channels) for channels in self.channels)
        steps = list(pairwise(self.channels))
        self.down = nn.ModuleList(nn.Conv2d(large, small, 3, stride=2, padding=1) for large, small in steps)
        self.up = nn.ModuleList(nn.Conv2d(small, 4 * large, 1) for large, small in steps)
        self.last = ResidualBlock(width)
        self.out = nn.Conv2d(width, patch, 3, padding=1)
        start_at_zero(self.out)

    def _adapter(self, spec: InputShape) -> nn.Module:
        channels, size_px = self.channels[spec.scale], SCALES_PX[spec.scale]
        if len(spec.shape) == 1:
            return VectorAdapter(spec.shape[0], channels, size_px)
        return MapAdapter(spec, channels, size_px)

    def fit_statistics(self, examples: Mapping[str, Tensor]) -> None:
        """Standardise each input by what it is like in examples, name -> (B, *shape)."""
        for name, standardise in self.standardise.items():
            assert isinstance(standardise, Standardise)
            standardise.fit(examples[name])

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        some = next(iter(inputs.values()))
        base = inputs[IMAGE] if IMAGE in inputs else self.mean_image.expand(len(some), -1, -1, -1)
        given = {name: standardise(inputs[name]) for name, standardise in self.standardise.items()}
        x = self.stem(F.pixel_unshuffle(base - self.mean_image, PATCH_PX))
        skips = []
        for scale, block in enumerate(self.encode):
            for name, adapter in self.adapters.items():
                if self.scale_of[name] == scale:
                    x = x + adapter(given[name])
            x = block(x)
            if scale < len(self.down):
                skips.append(x)
                x = self.down[scale](x)
        for scale in reversed(range(len(self.decode))):
            x = self.decode[scale](x)
            if scale:
                x = skips[scale - 1] + F.pixel_shuffle(self.up[scale - 1](x), 2)
        reconstructed = base + F.pixel_shuffle(self.out(self.last(x)), PATCH_PX)
        for name, shortcut in self.shortcuts.items():
            patches = shortcut(given[name])
            reconstructed = reconstructed + F.pixel_shuffle(patches, INPUT_SIZE_PX // patches.shape[-1])
        return reconstructed


def _shortcut(spec: InputShape) -> MapAdapter:
    size_px = SCALES_PX[spec.scale]
    return MapAdapter(spec, 3 * (INPUT_SIZE_PX // size_px) ** 2, size_px)
