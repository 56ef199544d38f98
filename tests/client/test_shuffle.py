"""Block channel shuffle against a naive loop, its inverse and gradient, and where its key comes from."""

from __future__ import annotations

import secrets
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from torchkit.client import BlockChannelShuffle
from torchkit.client.shuffle import draw_key, num_blocks

SHAPES = st.tuples(
    st.integers(1, 5), st.integers(1, 6), st.integers(1, 3), st.integers(1, 3), st.integers(1, 4)
)  # batch, channels, rows and columns of blocks, block side


def naive_shuffle(x: Tensor, key: Tensor, block_px: int) -> Tensor:
    """Block k's output channel c is its input channel key[k, c]; blocks are counted row by row."""
    batch, channels, height, width = x.shape
    images = []
    for image in range(batch):
        maps = []
        for c in range(channels):
            rows = []
            for top in range(0, height, block_px):
                cells = []
                for left in range(0, width, block_px):
                    k = (top // block_px) * (width // block_px) + left // block_px
                    source = int(key[k, c])
                    cells.append(x[image, source, top : top + block_px, left : left + block_px])
                rows.append(torch.cat(cells, dim=1))
            maps.append(torch.cat(rows, dim=0))
        images.append(torch.stack(maps))
    return torch.stack(images)


def random_key(blocks: int, channels: int, seed: int) -> Tensor:
    rng = np.random.default_rng(seed)
    return torch.from_numpy(np.stack([rng.permutation(channels) for _ in range(blocks)]))


def example(sizes: tuple[int, int, int, int, int], seed: int) -> tuple[Tensor, Tensor, BlockChannelShuffle]:
    batch, channels, rows, columns, block_px = sizes
    shape = (channels, rows * block_px, columns * block_px)
    key = random_key(rows * columns, channels, seed)
    x = torch.randn(batch, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return x, key, BlockChannelShuffle(shape, block_px, key)


@given(sizes=SHAPES, seed=st.integers(0, 1 << 20))
def test_shuffle_is_the_naive_loop(sizes: tuple[int, int, int, int, int], seed: int) -> None:
    x, key, shuffle = example(sizes, seed)
    assert torch.equal(shuffle(x), naive_shuffle(x, key, sizes[-1]))


@given(sizes=SHAPES, seed=st.integers(0, 1 << 20))
def test_restore_undoes_shuffle_and_shuffle_undoes_restore(sizes: tuple[int, int, int, int, int], seed: int) -> None:
    x, _, shuffle = example(sizes, seed)
    assert torch.equal(shuffle.restore(shuffle(x)), x)
    assert torch.equal(shuffle(shuffle.restore(x)), x)


@given(sizes=SHAPES, seed=st.integers(0, 1 << 20), undo=st.booleans())
def test_gradient_is_that_of_the_naive_loop(sizes: tuple[int, int, int, int, int], seed: int, undo: bool) -> None:
    x, key, shuffle = example(sizes, seed)
    inverse_key = torch.argsort(key, dim=1)
    factor = torch.randn(x.shape, dtype=torch.float64)
    gradients = []
    for function in (
        shuffle.restore if undo else shuffle,
        lambda v: naive_shuffle(v, inverse_key if undo else key, sizes[-1]),
    ):
        leaf = x.clone().requires_grad_()
        (function(leaf).square() * factor).sum().backward()
        assert leaf.grad is not None
        gradients.append(leaf.grad)
    assert torch.equal(*gradients)


def test_maps_that_are_not_contiguous() -> None:
    x, key, shuffle = example((2, 4, 2, 2, 3), 0)
    channels_last = x.contiguous(memory_format=torch.channels_last)
    assert torch.equal(shuffle(channels_last), naive_shuffle(x, key, 3))


# The key


def test_key_is_a_permutation_of_the_channels_for_each_block() -> None:
    key = draw_key((64, 28, 28), 14, None, "tap 1")
    assert key.shape == (4, 64) and key.dtype == torch.int64
    assert all(sorted(row) == list(range(64)) for row in key.tolist())
    assert len({tuple(row) for row in key.tolist()}) == 4, "each block has a permutation of its own"


def test_key_of_the_operating_system_is_new_each_time() -> None:
    assert not torch.equal(draw_key((64, 28, 28), 14, None, "tap 1"), draw_key((64, 28, 28), 14, None, "tap 1"))


def test_key_of_the_operating_system_has_256_bits_from_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def fixed(length: int) -> str:
        asked.append(length)
        return "ab" * length

    monkeypatch.setattr(secrets, "token_hex", fixed)
    keys = [draw_key((64, 28, 28), 14, None, "tap 1") for _ in range(2)]
    assert asked == [32, 32] and torch.equal(*keys)


def test_key_from_a_seed_repeats_and_depends_on_seed_and_name() -> None:
    key = draw_key((64, 28, 28), 14, 7, "tap 1")
    torch.manual_seed(123)
    np.random.default_rng(5)
    assert torch.equal(draw_key((64, 28, 28), 14, 7, "tap 1"), key)
    assert not torch.equal(draw_key((64, 28, 28), 14, 8, "tap 1"), key)
    assert not torch.equal(draw_key((64, 28, 28), 14, 7, "tap 2"), key)


IMPORT = """
import random, secrets
import numpy.random, torch

def refuse(*_):
    raise AssertionError("a key was drawn at import")

secrets.token_hex = secrets.token_bytes = secrets.randbits = refuse
random.seed(1); numpy.random.seed(1); torch.manual_seed(1)

def states():
    name, keys, position, *_ = numpy.random.get_state()
    return [random.getstate(), (name, keys.tolist(), position), torch.get_rng_state().tolist()]

before = states()
import torchkit.client, torchkit.server, torchkit.system
assert states() == before, "import changed a global generator"
print("clean")
"""


def test_nothing_is_drawn_at_import() -> None:
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", IMPORT], cwd=root, capture_output=True, text=True)
    assert done.stdout.strip() == "clean", done.stderr


def test_state_dict_brings_the_key_and_all_that_follows_from_it() -> None:
    x, _, donor = example((2, 6, 2, 3, 2), 1)
    _, _, other = example((2, 6, 2, 3, 2), 2)
    assert list(donor.state_dict()) == ["key"], "what follows from the key is not stored"
    assert not torch.equal(donor(x), other(x))
    other.load_state_dict(donor.state_dict())
    assert torch.equal(donor(x), other(x))
    assert torch.equal(other.restore(donor(x)), x)


def test_set_key_replaces_the_key() -> None:
    x, _, shuffle = example((2, 6, 2, 3, 2), 1)
    key = random_key(6, 6, 9)
    shuffle.set_key(key)
    assert torch.equal(shuffle.key, key)
    assert torch.equal(shuffle(x), naive_shuffle(x, key, 2))


def changed(key: Tensor, change: dict[tuple[int, int], int]) -> Tensor:
    key = key.clone()
    for place, value in change.items():
        key[place] = value
    return key


GOOD = torch.arange(3).repeat(4, 1)  # 4 blocks of 3 channels


@pytest.mark.parametrize(
    ("key", "message"),
    [
        (GOOD[:3], r"\(3, 3\), expected \(blocks, channels\) = \(4, 3\)"),
        (GOOD[:, :2], r"\(4, 2\), expected"),
        (GOOD[0], r"\(3,\), expected"),
        (changed(GOOD, {(2, 0): 1}), "no permutation"),
        (changed(GOOD, {(3, 2): 3}), "no permutation"),
        (changed(GOOD, {(0, 0): -1}), "no permutation"),
        (GOOD + 0.5, "no permutation"),
    ],
)
@pytest.mark.parametrize("way", ["init", "set_key"])
def test_bad_keys_are_refused(key: Tensor, message: str, way: str) -> None:
    with pytest.raises(ValueError, match=message):
        if way == "init":
            BlockChannelShuffle((3, 4, 4), 2, key)
        else:
            BlockChannelShuffle((3, 4, 4), 2, GOOD).set_key(key)


def test_bad_key_in_a_state_dict_is_refused() -> None:
    shuffle = BlockChannelShuffle((3, 4, 4), 2, GOOD)
    with pytest.raises(ValueError, match="no permutation"):
        shuffle.load_state_dict({"key": torch.zeros_like(GOOD)})


@pytest.mark.parametrize("dtype", [torch.int32, torch.uint8, torch.int64])
def test_any_integer_type_will_do(dtype: torch.dtype) -> None:
    x, key, shuffle = example((1, 6, 2, 2, 2), 3)
    other = BlockChannelShuffle(shuffle.shape, 2, key.to(dtype))
    assert other.key.dtype == torch.int64 and torch.equal(other(x), shuffle(x))


@pytest.mark.parametrize("shape", [(3, 28, 30), (3, 30, 28), (3, 7, 7)])
def test_block_must_divide_the_map(shape: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match=rf"SHUFFLE\.BLOCK_PX = 14: the map is {shape[1]}x{shape[2]}"):
        num_blocks(shape, 14)


def test_number_of_blocks() -> None:
    assert num_blocks((64, 56, 28), 14) == 8


def test_works_under_autocast_and_in_half_precision() -> None:
    x, key, shuffle = example((2, 4, 2, 2, 2), 0)
    half: Any = x.bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(shuffle(half), naive_shuffle(half, key, 2))
