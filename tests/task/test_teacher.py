"""The teacher's store: the same embeddings as without it, kept over runs, cut back after a kill."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from torchkit.data.training_set import image_digest
from torchkit.server import Recogniser
from torchkit.task.teacher import EmbeddingStore, Teacher


@pytest.fixture
def recogniser() -> Recogniser:
    return Recogniser("mobilefacenet")


@pytest.fixture
def batch(make_image: Callable[[int], np.ndarray]) -> tuple[Tensor, Tensor]:
    """Three images, and the digests of each and its mirror image."""
    faces = [make_image(seed) for seed in range(3)]
    digests = [np.stack([image_digest(p), image_digest(p[:, ::-1])]) for p in faces]
    images = torch.from_numpy(np.stack(faces).transpose(0, 3, 1, 2).copy())
    return images, torch.from_numpy(np.stack(digests))


def calls(recogniser: Recogniser) -> list[int]:
    made: list[int] = []
    recogniser.register_forward_hook(lambda module, inputs, output: made.append(len(output)))
    return made


def test_stored_embeddings_equal_computed_ones(
    recogniser: Recogniser, batch: tuple[Tensor, Tensor], tmp_path: Path
) -> None:
    plain = Teacher(recogniser, None, "float32")(*batch)
    stored = Teacher(recogniser, tmp_path, "float32")
    assert torch.equal(stored(*batch), plain)
    assert torch.equal(stored(*batch), plain)
    assert torch.equal(Teacher(recogniser, tmp_path, "float32")(*batch), plain)


def test_second_visit_and_mirror_images_cost_nothing(
    recogniser: Recogniser, batch: tuple[Tensor, Tensor], tmp_path: Path
) -> None:
    images, digests = batch
    teacher = Teacher(recogniser, tmp_path, "float32")
    teacher(images, digests)
    expected = recogniser(images.flip(-1))
    made = calls(recogniser)
    mirrored = teacher(images.flip(-1), digests.flip(1))
    assert made == []
    torch.testing.assert_close(mirrored, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("change", ["weights", "channel order", "precision"])
def test_another_teacher_computes_anew(
    recogniser: Recogniser, batch: tuple[Tensor, Tensor], tmp_path: Path, change: str
) -> None:
    Teacher(recogniser, tmp_path, "float32")(*batch)
    precision = "float32"
    if change == "weights":
        recogniser.backbone.get_parameter("conv1.conv.weight").data[0, 0, 0, 0] += 0.1
    elif change == "channel order":
        recogniser.channel_order = "rgb"
    else:
        precision = "bf16"
    made = calls(recogniser)
    assert torch.equal(Teacher(recogniser, tmp_path, precision)(*batch), recogniser(batch[0]))
    assert sum(made) > 3


def records(count: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(count)
    return rng.integers(0, 256, (count, 16), np.uint8), rng.normal(size=(count, size)).astype(np.float32)


@pytest.mark.parametrize("lost_bytes", [1, 30, 83, 84, 85, 200])
def test_torn_end_is_cut_off_and_written_again(tmp_path: Path, lost_bytes: int) -> None:
    digests, embeddings = records(5, 16)  # 84 bytes a record
    EmbeddingStore(tmp_path / "store.bin", 16).add(digests, embeddings)
    data = (tmp_path / "store.bin").read_bytes()
    assert len(data) == 5 * 84
    (tmp_path / "store.bin").write_bytes(data[:-lost_bytes])
    store = EmbeddingStore(tmp_path / "store.bin", 16)
    kept = 5 - -(-lost_bytes // 84)
    assert len(store) == kept
    np.testing.assert_array_equal(store.get(digests[:kept]), embeddings[:kept])
    assert store.get(digests) is None
    store.add(digests, embeddings)
    np.testing.assert_array_equal(EmbeddingStore(tmp_path / "store.bin", 16).get(digests[::-1]), embeddings[::-1])


def test_damaged_record_ends_what_is_trusted(tmp_path: Path) -> None:
    digests, embeddings = records(5, 16)
    EmbeddingStore(tmp_path / "store.bin", 16).add(digests, embeddings)
    data = bytearray((tmp_path / "store.bin").read_bytes())
    data[2 * 84 + 20] ^= 1
    (tmp_path / "store.bin").write_bytes(data)
    assert len(EmbeddingStore(tmp_path / "store.bin", 16)) == 2


def test_two_runs_may_share_a_store(tmp_path: Path) -> None:
    first, second = (EmbeddingStore(tmp_path / "store.bin", 16) for _ in range(2))
    a, b, c = records(2, 16), records(3, 16), records(4, 16)
    first.add(*a)
    second.add(*b)
    first.add(*c)
    np.testing.assert_array_equal(first.get(c[0]), c[1])
    np.testing.assert_array_equal(second.get(b[0]), b[1])
    reopened = EmbeddingStore(tmp_path / "store.bin", 16)
    for digests, embeddings in (a, b, c):
        np.testing.assert_array_equal(reopened.get(digests), embeddings)


def test_a_store_finds_what_another_process_added(tmp_path: Path) -> None:
    own, other = (EmbeddingStore(tmp_path / "store.bin", 16) for _ in range(2))
    a, b, c = records(2, 16), records(3, 16), records(4, 16)
    own.add(*a)
    other.add(*b)
    other.add(*c)
    np.testing.assert_array_equal(own.get(b[0]), b[1])
    np.testing.assert_array_equal(own.get(c[0]), c[1])
    assert other.get(np.concatenate([a[0], c[0]])) is not None
    assert len(own) == len(other) == 9
    assert (tmp_path / "store.bin").stat().st_size == 9 * 84  # nothing was added twice
