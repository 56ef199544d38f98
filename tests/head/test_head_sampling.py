"""Partial FC: which classes take part in a step, and that the others do not matter."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from torchkit.head import HEADS, ArcFace, CosFace, MarginHead, PartialFC, Shard

CLASSES, SIZE = 40, 6


def sampled_head(rate: float = 0.3, shard: Shard | None = None, seed: int = 0) -> MarginHead:
    torch.manual_seed(seed)
    return ArcFace(SIZE, CLASSES, 32.0, 0.4, shard or Shard(), sample_rate=rate)


def next_sample(head: MarginHead, labels: Tensor) -> Tensor:
    """The classes of the head's next step, which it still has before it."""
    assert head.sampler is not None
    return copy.deepcopy(head.sampler).draw(labels) + head.rows.start


@given(labels=st.lists(st.integers(0, CLASSES - 1), min_size=1, max_size=20), rate=st.floats(0.01, 0.99))
def test_sample_has_the_classes_of_the_batch_and_the_asked_size(labels: list[int], rate: float) -> None:
    sample = next_sample(sampled_head(rate), torch.tensor(labels)).tolist()
    assert len(set(sample)) == len(sample) == max(len(set(labels)), round(rate * CLASSES))
    assert sample[: len(set(labels))] == sorted(set(labels))
    assert set(sample) <= set(range(CLASSES))


@given(labels=st.lists(st.integers(0, CLASSES - 1), min_size=1, max_size=20))
def test_logits_are_those_of_all_classes_at_the_drawn_ones(labels: list[int]) -> None:
    head, batch = sampled_head(), torch.tensor(labels)
    embeddings, sample = torch.randn(len(labels), SIZE), next_sample(head, batch)
    everything = ArcFace(SIZE, CLASSES, 32.0, 0.4)
    everything.load_state_dict({"weight": head.weight.detach()})
    columns = head.columns(batch)
    np.testing.assert_array_equal(sample[columns], batch)
    np.testing.assert_allclose(
        head(embeddings, batch).detach().numpy(), everything(embeddings, batch)[:, sample].detach().numpy(), atol=1e-4
    )


def test_each_step_draws_anew_and_each_class_gets_its_turn() -> None:
    head, labels = sampled_head(), torch.tensor([3])
    assert head.sampler is not None
    counts = torch.zeros(CLASSES)
    for _ in range(600):
        counts[head.sampler.draw(labels)] += 1
    assert counts[3] == 600
    others = torch.cat([counts[:3], counts[4:]])
    expected = 600 * 11 / 39  # 12 a step, one of which is class 3
    deviation = (600 * 11 / 39 * 28 / 39) ** 0.5
    assert (others - expected).abs().max() < 4.5 * deviation


def test_only_the_drawn_centres_get_a_gradient() -> None:
    head, labels = sampled_head(), torch.tensor([3, 9])
    sample = next_sample(head, labels)
    torch.nn.functional.cross_entropy(head(torch.randn(2, SIZE), labels), head.columns(labels)).backward()
    assert head.weight.grad is not None
    assert sorted(head.weight.grad.norm(dim=1).nonzero()[:, 0].tolist()) == sorted(sample.tolist())


def test_samples_go_on_from_a_saved_state() -> None:
    head, labels = sampled_head(), torch.tensor([3])
    assert head.sampler is not None
    head.sampler.draw(labels)
    other = sampled_head(seed=5)
    other.load_state_dict(head.state_dict())
    assert torch.equal(next_sample(other, labels), next_sample(head, labels))


def test_evaluation_sees_all_classes() -> None:
    head, labels = sampled_head().eval(), torch.tensor([3, 30])
    assert head(torch.randn(2, SIZE), labels).shape == (2, CLASSES)
    assert torch.equal(head.columns(labels), labels)


@given(
    labels=st.lists(st.integers(0, CLASSES - 1), min_size=1, max_size=9),
    count=st.integers(2, 7),
    rate=st.sampled_from([0.2, 0.5]),
)
def test_shards_share_the_sample_of_the_whole_head(labels: list[int], count: int, rate: float) -> None:
    batch = torch.tensor(labels)
    whole = set(next_sample(sampled_head(rate), batch).tolist())
    shards = [sampled_head(rate, Shard(index, count)) for index in range(count)]
    parts = [next_sample(shard, batch).tolist() for shard in shards]
    for shard, part in zip(shards, parts, strict=True):
        assert set(part) == {c for c in whole if c in shard.rows} or part == [shard.rows.start]
        columns = shard.columns(batch).tolist()
        assert [part[c] if c >= 0 else None for c in columns] == [x if x in shard.rows else None for x in labels]


def test_partial_fc_is_cosface_on_a_tenth_of_the_classes() -> None:
    head, labels = PartialFC(SIZE, CLASSES, 32.0, 0.4), torch.tensor([7])
    embedding = torch.randn(1, SIZE)
    logits = head(embedding, labels)
    assert logits.shape == (1, 4)
    plain = CosFace(SIZE, CLASSES, 32.0, 0.4)
    plain.load_state_dict({"weight": head.weight.detach()})
    assert logits[0, 0].item() == pytest.approx(plain(embedding, labels)[0, 7].item(), abs=1e-4)


@pytest.mark.parametrize("name", HEADS)
def test_every_head_takes_a_rate(name: str) -> None:
    head = HEADS[name](SIZE, CLASSES, 32.0, 0.4, sample_rate=0.25)
    labels = torch.tensor([1, 2, 2])
    assert head(torch.randn(3, SIZE), labels).shape == (3, 10)
    assert HEADS[name](SIZE, CLASSES, 32.0, 0.4, sample_rate=1.0)(torch.randn(3, SIZE), labels).shape == (3, CLASSES)


@pytest.mark.parametrize("rate", [0, -0.1, 1.5])
def test_rate_must_be_a_share(rate: float) -> None:
    with pytest.raises(ValueError, match=r"sample rate .*above 0 and at most 1"):
        ArcFace(SIZE, CLASSES, 32.0, 0.4, sample_rate=rate)
