"""The quantiser beside LSQ's equations, worked out one number at a time (Esser et al., ICLR 2020, arXiv 1902.08153)."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from torchkit.client.quantise import CALIBRATION_BATCHES, MIN_START, Quantiser, code_range
from torchkit.payload.message import CODE_RANGES

ALL_BITS = (1, 2, 4, 8)
STEP = 0.25
SHAPE = (3, 4, 5, 2)


def features(bits: int, step: float = STEP) -> Tensor:
    """(3, 4, 5, 2): spread over twice the range of the codes; some lie on the borders, on ties and on zero."""
    _, highest = code_range(bits)
    x = torch.randn(SHAPE, generator=torch.Generator().manual_seed(bits)) * step * highest
    special = [-(highest + 1), -highest, highest, highest + 1, 0.5, -0.5, 1.5, -1.5, 0.0]
    x.view(-1)[: len(special)] = step * torch.tensor(special)
    return x


def trained(bits: int, step: float = STEP, share: float = 1.0) -> Quantiser:
    """In training, with a step that is learned already."""
    quantiser = Quantiser(bits).train()
    quantiser.batches.fill_(CALIBRATION_BATCHES)
    quantiser.set_share(share)
    with torch.no_grad():
        quantiser.log_step.fill_(math.log(step))
    assert quantiser.step.item() == pytest.approx(step)
    return quantiser


def ratios(x: Tensor, quantiser: Quantiser) -> list[float]:
    """v / s of every feature, in single precision."""
    return [float(np.float32(v) / np.float32(quantiser.step.item())) for v in x.flatten().tolist()]


def code(ratio: float, bits: int) -> int:
    """LSQ, equation 1: round(clip(v / s, -Qn, Qp)); with one bit the sign, zero counts as positive."""
    if bits == 1:
        return -1 if ratio < 0 else 1
    lowest, highest = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    return round(min(max(ratio, lowest), highest))  # round: ties to even, as torch does


def gradients(ratio: float, bits: int) -> tuple[float, float]:
    """LSQ, equations 5 and 3: d quantised / d v and d quantised / d step."""
    lowest, highest = (-1, 1) if bits == 1 else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    if ratio <= lowest:
        return 0.0, float(lowest)
    if ratio >= highest:
        return 0.0, float(highest)
    return 1.0, code(ratio, bits) - ratio


@pytest.mark.parametrize("bits", ALL_BITS)
def test_ranges_are_those_of_a_payload(bits: int) -> None:
    assert code_range(bits) == CODE_RANGES[bits]


@pytest.mark.parametrize("bits", ALL_BITS)
@pytest.mark.parametrize("step", [STEP, 0.3])
def test_forward_is_the_equation(bits: int, step: float) -> None:
    x, quantiser = features(bits, step), trained(bits, step)
    codes = np.array([code(ratio, bits) for ratio in ratios(x, quantiser)])
    expected = (np.float32(quantiser.step.item()) * codes.astype(np.float32)).reshape(SHAPE)
    for mode in (True, False):
        np.testing.assert_array_equal(quantiser.train(mode)(x).detach().numpy(), expected)
    found = quantiser.codes(x)
    assert found.dtype == torch.int8
    np.testing.assert_array_equal(found.numpy(), codes.reshape(SHAPE))
    assert set(codes) <= {*range(code_range(bits)[0], code_range(bits)[1] + 1)} - ({0} if bits == 1 else set())
    assert len(set(codes)) > 1


@pytest.mark.parametrize("bits", ALL_BITS)
def test_gradients_are_the_equations(bits: int) -> None:
    x, quantiser = features(bits).requires_grad_(), trained(bits)
    upstream = torch.randn(SHAPE, generator=torch.Generator().manual_seed(9))
    (quantiser(x) * upstream).sum().backward()
    pairs = [gradients(ratio, bits) for ratio in ratios(x, quantiser)]
    wanted_x = [g * of_v for g, (of_v, _) in zip(upstream.flatten().tolist(), pairs, strict=True)]
    assert x.grad is not None and quantiser.log_step.grad is not None
    np.testing.assert_allclose(x.grad.flatten().numpy(), wanted_x, rtol=1e-6)
    assert 0 < sum(of_v for of_v, _ in pairs) < x.numel(), "inside and outside of the range must occur"

    # Section 2.2: the step's gradient is scaled by 1 / sqrt(features of an image * Qp). It reaches the logarithm
    # by the chain rule: d step / d log step = step.
    scale = 1 / math.sqrt(4 * 5 * 2 * code_range(bits)[1])
    wanted_step = scale * sum(g * of_step for g, (_, of_step) in zip(upstream.flatten().tolist(), pairs, strict=True))
    assert quantiser.log_step.grad.item() == pytest.approx(quantiser.step.item() * wanted_step, rel=1e-4, abs=1e-6)


def test_a_step_stays_positive() -> None:
    quantiser = Quantiser(4).train()
    quantiser(torch.full(SHAPE, 1e-30))
    assert quantiser.step.item() == pytest.approx(MIN_START, rel=0.1)  # all but zero: rounding shows
    with torch.no_grad():
        quantiser.log_step -= 50  # whatever an optimiser does
    assert quantiser.step.item() > 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_becomes_float32(dtype: torch.dtype) -> None:
    assert trained(4)(features(4).to(dtype)).dtype == torch.float32
    assert trained(4, share=0)(features(4).to(dtype)).dtype == torch.float32


# The first batches


@pytest.mark.parametrize("bits", ALL_BITS)
def test_step_starts_at_the_mean_of_lsqs_starts(bits: int) -> None:
    """Section 2.1: 2 mean|v| / sqrt(Qp); pruned features, which are zero, do not count."""
    quantiser = Quantiser(bits).train()
    rng = np.random.default_rng(bits)
    starts = []
    for batch in range(CALIBRATION_BATCHES + 3):
        x = rng.normal(0, 1 + batch, SHAPE).astype(np.float32)
        x[rng.random(SHAPE) < 0.3] = 0
        sent = [abs(float(v)) for v in x.ravel() if v != 0]
        starts.append(2 * sum(sent) / len(sent) / math.sqrt(code_range(bits)[1]))
        quantiser(torch.from_numpy(x))
        counted = starts[:CALIBRATION_BATCHES]  # then the step is learned
        assert quantiser.step.item() == pytest.approx(sum(counted) / len(counted), rel=1e-5)


def test_nothing_but_training_moves_the_step() -> None:
    quantiser = Quantiser(4)
    for training, share in ((False, 1.0), (True, 0.0)):
        quantiser.train(training).set_share(share)
        quantiser(features(4))
        assert quantiser.step.item() == 1 and quantiser.batches.item() == 0
    quantiser.set_share(1.0)
    quantiser(torch.zeros(SHAPE))  # nothing is sent: nothing to learn from
    assert quantiser.step.item() == 1 and quantiser.batches.item() == 0
    quantiser(features(4))
    assert quantiser.step.item() != 1 and quantiser.batches.item() == 1


def test_step_while_calibrating_is_the_one_that_quantises() -> None:
    quantiser, x = Quantiser(2).train(), features(2)
    found = quantiser(x)
    assert quantiser.step.item() != 1
    np.testing.assert_array_equal(
        found.detach().numpy(), np.float32(quantiser.step.item()) * quantiser.codes(x).numpy()
    )


# The ramp


@pytest.mark.parametrize("share", [0.25, 0.75])
def test_on_the_ramp_training_sees_a_mixture(share: float) -> None:
    x, quantiser = features(4).requires_grad_(), trained(4, share=share)
    found = quantiser(x)
    step, all_ratios = quantiser.step.item(), ratios(x, quantiser)
    values = [step * ((1 - share) * ratio + share * code(ratio, 4)) for ratio in all_ratios]
    np.testing.assert_allclose(found.flatten().detach().numpy(), values, rtol=1e-5, atol=1e-7)
    found.sum().backward()
    slopes = [(1 - share) + share * gradients(ratio, 4)[0] for ratio in all_ratios]
    np.testing.assert_allclose(x.grad.flatten().numpy(), slopes, rtol=1e-6)


def test_before_the_ramp_features_leave_as_they_are() -> None:
    x, quantiser = features(2), trained(2, share=0)
    for mode in (True, False):
        assert torch.equal(quantiser.train(mode)(x), x)
    assert not quantiser.active


def test_evaluation_never_sees_a_mixture() -> None:
    x, quantiser = features(2), trained(2, share=0.01)
    assert quantiser.active
    assert torch.equal(quantiser.eval()(x), trained(2)(x))
    assert not torch.equal(quantiser.train()(x), trained(2)(x))


def test_state_tells_how_far_the_ramp_is() -> None:
    """A client file that was written before the ramp holds a client that sends floats."""
    quantiser = Quantiser(2)
    quantiser.load_state_dict(trained(2, 0.7, share=0).state_dict())
    x = features(2)
    assert torch.equal(quantiser.eval()(x), x)
