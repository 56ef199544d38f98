"""Softmax over shards: in one process the plain one; tests/test_head_processes.py has several."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from torchkit.loss import sharded_cross_entropy, softmax_loss


@given(seed=st.integers(0, 10_000), size=st.sampled_from([1.0, 64.0, 1e4]), offset=st.sampled_from([0.0, 1e4, -1e4]))
def test_value_and_gradient(seed: int, size: float, offset: float) -> None:
    rng = np.random.default_rng(seed)
    z, labels = rng.normal(offset, size, (5, 7)).astype(np.float32), rng.integers(7, size=5)
    logits = torch.from_numpy(z).requires_grad_()
    loss = sharded_cross_entropy(logits, torch.from_numpy(labels))
    loss.backward()
    shifted = z.astype(np.float64) - z.max(axis=1, keepdims=True)
    probabilities = np.exp(shifted) / np.exp(shifted).sum(axis=1, keepdims=True)
    expected = np.mean(np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(5), labels])
    assert loss.item() == pytest.approx(expected, rel=1e-5, abs=1e-6)
    assert logits.grad is not None
    np.testing.assert_allclose(logits.grad.numpy(), (probabilities - np.eye(7)[labels]) / 5, atol=1e-5)


@pytest.mark.parametrize("name", ["DistCrossEntropy", "CrossEntropy"])
def test_one_shard_takes_the_plain_loss(name: str) -> None:
    assert softmax_loss(name, shards=1) is torch.nn.functional.cross_entropy


def test_shards_need_the_loss_over_shards() -> None:
    assert softmax_loss("DistCrossEntropy", shards=2) is sharded_cross_entropy
    with pytest.raises(ValueError, match=r"LOSS_NAME = CrossEntropy .* 2 processes .*DistCrossEntropy.*DIST_FC: false"):
        softmax_loss("CrossEntropy", shards=2)
