"""Heads, losses and collectives in two processes give what one process computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import two_processes
from torch.testing import assert_close
from two_processes import BATCH, FIRST_PART, PROCESSES, VARIANTS

from torchkit.util import distributed

CLOSE = {"rtol": 1e-4, "atol": 1e-5}


def test_two_processes(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(two_processes.process, args=(str(tmp_path),), nprocs=PROCESSES)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(PROCESSES))
    alone = two_processes.everything()
    for variant in VARIANTS:
        same_steps(variant, first["sharded"][variant], second["sharded"][variant], alone["sharded"][variant])
    for name, expected in alone["whole"].items():
        same_logits_of_whole_heads(first["whole"][name], second["whole"][name], expected)
    for results in (first, second):
        assert_close(results["averaged"]["network"], alone["averaged"]["network"], **CLOSE)
    for a, b, expected in zip(first["extreme"], second["extreme"], alone["extreme"], strict=True):
        assert a["loss"] == b["loss"] == pytest.approx(expected["loss"], rel=1e-5)
        assert_close(torch.cat([a["gradient"], b["gradient"]], dim=1), expected["gradient"], **CLOSE)
    right_primitives(first["primitives"], second["primitives"])


def same_steps(variant: str, first: Any, second: Any, alone: Any) -> None:
    """Losses, gradients, and the whole head after the last step; logits where each class has a column."""
    for a, b, expected in zip(first["steps"], second["steps"], alone["steps"], strict=True):
        assert a["loss"] == b["loss"] == pytest.approx(expected["loss"], rel=1e-5), variant
        assert_close(torch.cat([a["embeddings"], b["embeddings"]]), expected["embeddings"], **CLOSE, msg=variant)
        assert_close(a["weight"], expected["weight"], **CLOSE, msg=variant)
        assert expected["embeddings"].norm() > 1e-3 and expected["weight"].norm() > 1e-3
        logits = torch.cat([a["logits"], b["logits"]], dim=1)
        assert logits.shape == expected["logits"].shape, variant
        if logits.shape[1] == two_processes.CLASSES:
            assert_close(logits, expected["logits"], **CLOSE, msg=variant)
    assert first["state"].keys() == second["state"].keys() == alone["state"].keys()
    for key, expected in alone["state"].items():
        assert torch.equal(first["state"][key], second["state"][key]), (variant, key)
        assert_close(first["state"][key], expected, **CLOSE, msg=f"{variant} {key}")


def same_logits_of_whole_heads(first: Any, second: Any, alone: Any) -> None:
    """Each process has its rows; what runs over the batch (t, lengths, threshold) runs over all of it."""
    if first["logits"].shape[1] == two_processes.CLASSES:
        assert_close(torch.cat([first["logits"], second["logits"]]), alone["logits"], **CLOSE)
    for key, expected in alone["state"].items():
        assert_close(first["state"][key], expected, **CLOSE)
        assert torch.equal(first["state"][key], second["state"][key])


def right_primitives(first: Any, second: Any) -> None:
    assert first["rank"] == (0, 2, True) and second["rank"] == (1, 2, False)
    for results in (first, second):
        assert results["gathered"].tolist() == [[0, 1, 2], [3, 4, 5], [10, 11, 12]]
        assert results["integers"].tolist() == [0, 5, 1, 6]
        assert results["sum"].tolist() == [2, 6]
        assert results["sum gradient"].tolist() == [3, 7]  # once, as the loss counts
        assert results["maximum"].tolist() == [1, 5]
        assert results["needs gradient"] == (True, False)
    assert first["gather gradient"].tolist() == [[3, 6, 9], [12, 15, 18]]  # 1x from one process, 2x from the other
    assert second["gather gradient"].tolist() == [[21, 24, 27]]


def test_one_process_changes_nothing() -> None:
    x = torch.randn(BATCH, FIRST_PART, requires_grad=True)
    assert (distributed.rank(), distributed.world_size(), distributed.is_main()) == (0, 1, True)
    assert distributed.gather(x) is x and distributed.reduce_sum(x) is x
    assert torch.equal(distributed.reduce_max(x), x) and not distributed.reduce_max(x).requires_grad


@pytest.mark.parametrize("factor", [1, 3, 0.5])
def test_scale_gradient(factor: float) -> None:
    x = torch.randn(4, requires_grad=True)
    y = distributed.scale_gradient(x, factor)
    y.square().sum().backward()
    assert torch.equal(y, x) and x.grad is not None
    assert_close(x.grad, 2 * factor * x.detach())
