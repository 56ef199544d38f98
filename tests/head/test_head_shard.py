"""Heads cut into shards, simulated in one process; tests/test_head_processes.py has two processes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import torchkit.head.base
from torchkit.head import (
    AdaFace,
    ArcFace,
    CosFace,
    CurricularFace,
    MarginHead,
    NormFace,
    Shard,
    full_state,
    load_full_state,
)

SIZE = 5
LOCAL = pytest.mark.parametrize("kind", [ArcFace, CosFace, NormFace, AdaFace])  # need no other shard's cosines


def made(kind: type[MarginHead], num_classes: int, shard: Shard | None = None) -> MarginHead:
    torch.manual_seed(7)
    return kind(SIZE, num_classes, 32.0, 0.4, shard or Shard())


@given(num_classes=st.integers(1, 60), data=st.data())
def test_shards_are_runs_of_nearly_equal_length(num_classes: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(1, num_classes))
    parts = [Shard(index, count).rows(num_classes) for index in range(count)]
    assert [c for part in parts for c in part] == list(range(num_classes))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize(("index", "count"), [(-1, 2), (2, 2), (0, 0)])
def test_a_shard_has_a_number_below_the_count(index: int, count: int) -> None:
    with pytest.raises(ValueError, match=rf"shard {index} of {count}"):
        Shard(index, count)


def test_more_processes_than_identities() -> None:
    with pytest.raises(ValueError, match=r"3 identities .* 4 processes.*DIST_FC: false"):
        made(ArcFace, 3, Shard(0, 4))


@LOCAL
@given(num_classes=st.integers(3, 12), count=st.integers(1, 3), seed=st.integers(0, 100))
def test_logits_side_by_side_are_those_of_the_whole_head(
    kind: type[MarginHead], num_classes: int, count: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    embeddings = 20 * torch.randn(6, SIZE, generator=generator)
    labels = torch.randint(num_classes, (6,), generator=generator)
    shards = [made(kind, num_classes, Shard(index, count)) for index in range(count)]
    logits = torch.cat([shard(embeddings, labels) for shard in shards], dim=1)
    whole = made(kind, num_classes)
    np.testing.assert_allclose(logits.detach().numpy(), whole(embeddings, labels).detach().numpy(), atol=1e-4)
    for shard in shards:
        expected = [label - shard.rows.start if label in shard.rows else -1 for label in labels.tolist()]
        assert shard.columns(labels).tolist() == expected


@pytest.mark.parametrize("block", [1, 3, 4, 100])
def test_shards_start_with_the_rows_of_the_whole_head(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    """However many rows are drawn at a time; and what is drawn afterwards is the same too."""
    monkeypatch.setattr(torchkit.head.base, "INIT_ROWS", block)
    whole, after = made(ArcFace, 11).weight, torch.rand(3)
    for count in (2, 3, 11):
        for index in range(count):
            shard = made(ArcFace, 11, Shard(index, count))
            assert torch.equal(shard.weight, whole[shard.rows.start : shard.rows.stop])
            assert torch.equal(torch.rand(3), after)
    assert 0.005 < whole.std().item() < 0.02 and len(whole.unique()) == 55


def test_a_whole_state_is_read_by_any_number_of_processes() -> None:
    heads = torch.nn.ModuleList([made(CurricularFace, 11), made(ArcFace, 7)])
    heads[0].get_buffer("t").fill_(0.25)
    state = full_state(heads)
    assert state.keys() == {"0.weight", "0.t", "1.weight"}
    for count in (1, 2, 5):
        for index in range(count):
            parts = [kind(SIZE, n, 32.0, 0.4, Shard(index, count)) for kind, n in ((CurricularFace, 11), (ArcFace, 7))]
            load_full_state(torch.nn.ModuleList(parts), state, "file")
            for part, head in zip(parts, heads, strict=True):
                assert torch.equal(part.weight, head.weight[part.rows.start : part.rows.stop])
            assert parts[0].get_buffer("t").item() == 0.25


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weight": torch.zeros(4, SIZE)}, r"weight has shape \(4, 5\), expected a row for each of 11 identities"),
        ({"weight": torch.zeros(())}, r"weight has shape \(\), expected a row for each of 11 identities"),
        ({"weight": torch.zeros(11, 3)}, r"weight has shape \(5, 3\), expected \(5, 5\)"),
        ({"weight": torch.full((11, SIZE), torch.nan)}, "weight holds NaN"),
        ({"weight": "text"}, "weight is no tensor"),
        ({"more": torch.zeros(1)}, "unknown key 'more'"),
    ],
)
def test_a_state_that_does_not_fit(change: dict[str, object], message: str) -> None:
    state = {**full_state(made(ArcFace, 11)), **change}
    with pytest.raises(ValueError, match=f"^file.*{message}"):
        load_full_state(made(ArcFace, 11, Shard(0, 2)), state, "file")  # type: ignore[arg-type]


def test_a_state_without_the_weight() -> None:
    with pytest.raises(ValueError, match="file lacks key 'weight'"):
        load_full_state(made(ArcFace, 11, Shard(0, 2)), {}, "file")


def test_rows_of_other_tensors_are_cut_alike() -> None:
    """As of an optimiser's momentum."""
    momentum = torch.randn(11, SIZE)
    parts = [made(ArcFace, 11, Shard(index, 3)).own_rows(momentum) for index in range(3)]
    assert torch.equal(torch.cat(parts), momentum)
