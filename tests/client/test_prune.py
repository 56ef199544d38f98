"""The pruner: importance and thresholds beside their definitions, worked out one number at a time."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from torchkit.client.prune import MEMORY, SAMPLE, Pruner

SHAPE = (3, 8, 4, 5)


def features(seed: int = 0, shape: tuple[int, ...] = SHAPE) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def loss_of(a: Tensor) -> Tensor:
    """Anything that is not linear and differs between channels and places."""
    return (a.tanh() * torch.linspace(-1, 2, a[0].numel()).view(a.shape[1:])).sum()


def naive_importance(x: Tensor) -> np.ndarray:
    """(C,): mean over images of |sum over places of a * dL/da| (Molchanov et al., 2019, equation 8)."""
    a = x.clone().requires_grad_()
    loss_of(a).backward()
    assert a.grad is not None
    total = np.zeros(x.shape[1])
    for image, gradient in zip(x.numpy(), a.grad.numpy(), strict=True):
        for channel in range(x.shape[1]):
            total[channel] += abs(float((image[channel] * gradient[channel]).sum()))
    return total / len(x)


# Importance


@pytest.mark.parametrize("value_share", [0.0, 0.5])
def test_importance_is_the_mean_change_of_a_images_loss(value_share: float) -> None:
    pruner = Pruner(8, 0.5, value_share).train()
    expected = np.zeros(8)
    for seed in range(3):
        x = features(seed)
        loss_of(pruner(x)).backward()
        expected = MEMORY * expected + (1 - MEMORY) * naive_importance(x)
        np.testing.assert_allclose(pruner.importance.numpy(), expected, rtol=1e-4)
    assert expected.min() > 0


def test_importance_looks_at_each_image_by_itself() -> None:
    """Two images whose changes cancel are both important."""
    x = features()[:1].repeat(2, 1, 1, 1)
    pruner = Pruner(8, 0.5, 0).train()
    out = pruner(x)
    (loss_of(out[:1]) - loss_of(out[1:])).backward()
    np.testing.assert_allclose(pruner.importance.numpy(), (1 - MEMORY) * naive_importance(x[:1]), rtol=1e-4)


def test_only_training_with_gradients_notes_importance() -> None:
    pruner, x = Pruner(8, 0.5, 0), features().requires_grad_()
    loss_of(pruner.eval()(x)).backward()
    with torch.no_grad():
        pruner.train()(x)
    assert (pruner.importance == 0).all()


# Channels


def test_the_least_important_channels_go_first() -> None:
    pruner = Pruner(8, 0.5, 0)
    pruner.importance.copy_(torch.tensor([5.0, 1, 7, 3, 0, 2, 6, 4]))
    pruner.set_progress(1)
    assert pruner.keep.tolist() == [True, False, True, False, False, False, True, True]
    x = features()
    out = pruner(x)
    assert torch.equal(out[:, [0, 2, 6, 7]], x[:, [0, 2, 6, 7]])
    assert (out[:, [1, 3, 4, 5]] == 0).all()


def test_pruned_channels_never_come_back() -> None:
    pruner = Pruner(8, 0.75, 0)
    rng = torch.Generator().manual_seed(1)
    gone: set[int] = set()
    for progress in (0.0, 0.1, 0.3, 0.2, 0.5, 0.0, 1.0, 0.1):
        pruner.importance.copy_(torch.rand(8, generator=rng))  # those that are gone may look important now
        before = pruner.keep.clone()
        pruner.set_progress(progress)
        now = set(np.flatnonzero(~pruner.keep.numpy()).tolist())
        assert now >= gone
        new = now - gone
        others = [pruner.importance[c].item() for c in range(8) if before[c] and c not in new]
        assert all(pruner.importance[c].item() <= min(others) for c in new)
        gone = now
    assert len(gone) == 6


@pytest.mark.parametrize("share", [0.25, 0.5, 1.0])
def test_the_share_grows_along_a_cubic(share: float) -> None:
    """Zhu and Gupta, 2017, equation 1, from a share of 0: s_t = s_f + (0 - s_f) (1 - t)^3."""
    pruner = Pruner(64, share, 0)
    for progress in (0.0, 0.05, 0.2, 0.4, 0.7, 0.9, 1.0):
        pruner.set_progress(progress)
        wanted = 64 * (share - share * (1 - progress) ** 3)
        assert abs(int((~pruner.keep).sum()) - wanted) <= 0.5 + 1e-9
    assert int((~pruner.keep).sum()) == 64 * share


def test_pruned_channels_get_no_gradient() -> None:
    pruner, x = Pruner(8, 0.5, 0).train(), features().requires_grad_()
    pruner.importance.copy_(torch.arange(8.0))
    pruner.set_progress(1)
    pruner(x).sum().backward()
    assert x.grad is not None
    assert (x.grad[:, :4] == 0).all() and (x.grad[:, 4:] == 1).all()


def test_everything_may_be_pruned() -> None:
    pruner = Pruner(8, 1.0, 0.5).train()
    pruner.set_progress(1)
    assert (pruner(features()) == 0).all()


# Values


def quantile(values: Tensor, share: float) -> float:
    return float(np.quantile(values.abs().numpy().astype(np.float64), share))


@pytest.mark.parametrize("channel_share", [0.0, 0.5])
def test_threshold_starts_at_the_first_batchs_quantile_and_follows(channel_share: float) -> None:
    pruner = Pruner(8, channel_share, 0.75).train()
    pruner.importance.copy_(torch.arange(8.0))
    pruner.set_progress(1)
    kept = slice(4, None) if channel_share else slice(None)
    first, then = features(1), 3 * features(2)
    with torch.no_grad():
        pruner(first)
        wanted = quantile(first[:, kept], 0.75)
        assert pruner.threshold.item() == pytest.approx(wanted, rel=1e-5)
        for _ in range(3):
            pruner(then)
            wanted = MEMORY * wanted + (1 - MEMORY) * quantile(then[:, kept], 0.75)
            assert pruner.threshold.item() == pytest.approx(wanted, rel=1e-5)
        for _ in range(120):
            pruner(then)
        assert pruner.threshold.item() == pytest.approx(quantile(then[:, kept], 0.75), rel=3e-3)
        zeros = (pruner.eval()(then)[:, kept] == 0).float().mean().item()
    assert zeros == pytest.approx(0.75, abs=0.01)


def test_value_share_grows_with_the_ramp() -> None:
    x = features()
    for progress in (0.3, 0.6):
        pruner = Pruner(8, 0, 0.5).train()
        pruner.set_progress(progress)
        pruner(x)
        assert pruner.threshold.item() == pytest.approx(quantile(x, 0.5 * (1 - (1 - progress) ** 3)), rel=1e-5)


def test_threshold_of_a_large_batch_comes_from_a_sample() -> None:
    x = features(3, (4, 8, 80, 80))
    assert x.numel() > 3 * SAMPLE
    pruner = Pruner(8, 0, 0.5).train()
    pruner.set_progress(1)
    pruner(x)
    assert pruner.threshold.item() == pytest.approx(quantile(x, 0.5), abs=0.01)


def test_small_values_are_zero_and_keep_their_gradient() -> None:
    pruner, x = Pruner(8, 0, 0.5).train(), features().requires_grad_()
    pruner.set_progress(1)
    out = pruner(x)
    threshold = pruner.threshold.item()
    for found, v in zip(out.flatten().tolist(), x.flatten().tolist(), strict=True):
        assert found == (0 if abs(v) < threshold else v)
    upstream = features(5)
    (out * upstream).sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, upstream)


def test_evaluation_moves_nothing() -> None:
    pruner = Pruner(8, 0.5, 0.5).train()
    pruner.set_progress(1)
    pruner(features())
    before = {name: tensor.clone() for name, tensor in pruner.state_dict().items()}
    pruner.eval()(3 * features(1))
    assert all(torch.equal(tensor, before[name]) for name, tensor in pruner.state_dict().items())


# Off


@pytest.mark.parametrize("prepare", [Pruner.train, Pruner.eval], ids=["training", "evaluation"])
def test_shares_of_zero_change_nothing(prepare: Callable[[Pruner], Pruner]) -> None:
    pruner, x = prepare(Pruner(8, 0, 0)), features().requires_grad_()
    pruner.set_progress(1)
    out = pruner(x)
    assert torch.equal(out, x)
    (out * features(1)).sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, features(1))


def test_before_the_ramp_nothing_is_pruned() -> None:
    pruner, x = Pruner(8, 0.5, 0.5).train(), features()
    pruner.set_progress(0)
    assert torch.equal(pruner(x), x)
    assert torch.equal(pruner.eval()(x), x)
