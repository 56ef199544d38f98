"""Quantisation of features with a learned step size: LSQ (Esser et al., ICLR 2020, arXiv 1902.08153).

A feature v becomes step * code with code = round(clip(v / step, lowest, highest)). The backward pass treats the
rounding as if it were not there (straight-through), so that client and step learn to live with it. What leaves in
training is exactly what a payload carries: float32(step) * float32(code).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from torchkit.util.distributed import reduce_sum, world_size

BITS = (1, 2, 4, 8)
FLOAT_BITS = 32
"""Stands for features that are not quantised: float32."""
MIN_START = 1e-6
"""Step with which features that are all but zero start."""
CALIBRATION_BATCHES = 20


def check_bits(bits: tuple[float, ...]) -> tuple[float, ...]:
    """The bits of each tap's features, if they can be used.

    Raises:
        ValueError: others than `BITS` and `FLOAT_BITS`.
    """
    if not set(bits) <= {*BITS, FLOAT_BITS}:
        raise ValueError(f"{list(bits)}: allowed are {', '.join(map(str, BITS))} and {FLOAT_BITS} (float32) a tap")
    return bits


def code_range(bits: int) -> tuple[int, int]:
    """Lowest and highest code: -2^(b-1) .. 2^(b-1) - 1; with 1 bit, whose codes leave out 0, -1 and 1."""
    return (-1, 1) if bits == 1 else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


def to_codes(scaled: Tensor, bits: int) -> Tensor:
    """Nearest codes, float, of features that were divided by the step."""
    if bits == 1:
        return torch.where(scaled < 0, -1.0, 1.0)
    return scaled.round().clamp(*code_range(bits)) + 0.0  # which makes 0 of -0, as a payload does


class _StraightThrough(torch.autograd.Function):
    """Forward: step * code. Backward: LSQ's equations 3 and 5."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, step: Tensor, bits: int) -> Tensor:
        scaled = x / step
        codes = to_codes(scaled, bits)
        ctx.save_for_backward(scaled, codes)
        ctx.bits = bits
        return codes * step

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        scaled, codes = ctx.saved_tensors
        lowest, highest = code_range(ctx.bits)
        inside = ((scaled > lowest) & (scaled < highest)).to(grad.dtype)
        grad_step = (grad * (codes - scaled * inside)).sum()
        return grad * inside, grad_step * _gradient_scale(grad, highest), None


def _gradient_scale(features: Tensor, highest: int) -> float:
    """LSQ, section 2.2: 1 / sqrt(features of an image * highest code), so that the step learns as fast as weights."""
    return 1 / math.sqrt(features[0].numel() * highest)


class Quantiser(nn.Module):
    """Quantises the features of one tap.

    During its first training batches the step follows the features (LSQ's start, 2 mean|v| / sqrt(highest), averaged);
    then it is learned. Kept is its logarithm: a step stays positive, and learns at a rate relative to its size.

    Args:
        bits: 1, 2, 4 or 8.

    Shape: (B, C, h, w) -> the same, float32.
    """

    share: Tensor
    batches: Tensor

    def __init__(self, bits: int) -> None:
        super().__init__()
        assert bits in BITS, bits
        self.bits = bits
        self.log_step = nn.Parameter(torch.zeros(()))
        self.register_buffer("share", torch.ones(()))
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64))

    def set_share(self, share: float) -> None:
        """How much of the quantised features training sees: 0 none, 1 they alone, between the two a mixture."""
        self.share.fill_(share)

    @property
    def active(self) -> bool:
        """Whether quantised features leave: from the first mixture on."""
        return bool(self.share > 0)

    @property
    def step(self) -> Tensor:
        """What a code of 1 stands for."""
        return self.log_step.exp()

    def codes(self, x: Tensor) -> Tensor:
        """(B, C, h, w) int8 codes of features."""
        return to_codes(x.float() / self.step, self.bits).to(torch.int8)

    def forward(self, x: Tensor) -> Tensor:
        x = x.float()
        if not self.active:
            return x
        if self.training and self.batches < CALIBRATION_BATCHES:
            self._follow(x.detach())
        quantised = _StraightThrough.apply(x, self.step, self.bits)
        if not self.training or self.share == 1:
            return quantised
        return x + self.share * (quantised - x)

    def calibrate(self, x: Tensor) -> None:
        """Set the step by these features alone, without training."""
        self.batches.zero_()
        self._follow(x)
        self.set_share(1)

    @torch.no_grad()
    def _follow(self, x: Tensor) -> None:
        """Move the step to the mean, over the batches so far, of LSQ's start; pruned features do not count."""
        magnitude = _mean_magnitude(x[x != 0])
        if magnitude is None:
            return
        start = 2 * magnitude / math.sqrt(code_range(self.bits)[1])
        self.batches += 1
        self.log_step.copy_(self.step.lerp(start.clamp(min=MIN_START), 1 / self.batches.item()).log())


def _mean_magnitude(values: Tensor) -> Tensor | None:
    """Mean of all processes' |values|; None if there are none."""
    if world_size() == 1:
        return values.abs().mean() if len(values) else None
    total, count = reduce_sum(torch.stack([values.abs().sum(), values.new_tensor(len(values))]).double())
    return (total / count).float() if count else None
