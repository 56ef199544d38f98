"""Training data: index files, the order of samples, what is random about a sample, and errors that name the line."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader, Dataset

from torchkit.data.images import read_face
from torchkit.data.index import Index, read_index
from torchkit.data.sampler import BranchBatchSampler
from torchkit.data.training_set import SampleKey, TrainingSet, make_loader
from torchkit.obfuscation import RandomObfuscation
from torchkit.util.cli import message_of
from torchkit.util.pixels import decode_image

# Index files


def index_of(folder: Path, text: str) -> Index:
    (folder / "train.txt").write_text(text)
    return read_index(folder, folder, "train")


class ThreadCounts(Dataset[tuple[int, int]]):
    """Tells how many threads its process uses: PyTorch's and OpenCV's."""

    def __len__(self) -> int:
        return 2

    def __getitem__(self, position: int) -> tuple[int, int]:
        return torch.get_num_threads(), cv2.getNumThreads()


def test_workers_use_one_thread_each() -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        (counts,) = make_loader(ThreadCounts(), 1, torch.device("cpu"), batch_size=2)
    finally:
        torch.set_num_threads(threads)
    assert [count.tolist() for count in counts] == [[1, 1], [1, 1]]


def test_index_gives_paths_and_labels(tmp_path: Path) -> None:
    index = index_of(tmp_path, "a/0.jpg 0\na/with blank.jpg 0\nb/0.png 1\n")
    assert list(index.paths) == ["a/0.jpg", "a/with blank.jpg", "b/0.png"]
    assert index.labels.dtype == np.int64 and index.labels.tolist() == [0, 0, 1]
    assert len(index) == 3 and index.num_classes == 2
    assert index.describe(1) == f"{tmp_path / 'train.txt'}, line 2: {tmp_path / 'a/with blank.jpg'}"


@pytest.mark.parametrize("text", ["b 1\na 0\n", "b\t1\na\t0\n", "b 1\r\na 0\r\n", "b 1\na 0", "b 1 \na 0\n\n\n"])
def test_separator_line_ends_and_order_of_labels_do_not_matter(tmp_path: Path, text: str) -> None:
    index = index_of(tmp_path, text)
    assert list(index.paths) == ["b", "a"] and index.labels.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a 0\nb\nc 1\n", 2),
        ("a 0\nb one\n", 2),
        ("a -1\n", 1),
        ("a 0\nb 1.0\n", 2),
        ("a 0\n\nb 1\n", 2),
        (" 0\n", 1),
        ("a\t1\t0\n", 1),
        ("a 0\nb\tc 1\n", 2),
        ("a 0\nb \u00b2\n", 2),
        ("a 0\nb 99999999999999999999\n", 2),
    ],
)
def test_line_of_another_form_is_named_by_its_number(tmp_path: Path, text: str, line: int) -> None:
    with pytest.raises(ValueError, match=rf"train\.txt, line {line}: .*expected `relative/path label`"):
        index_of(tmp_path, text)


@pytest.mark.parametrize(
    ("labels", "missing"), [([1, 2], 0), ([0, 2, 3], 1), ([0, 1, 3, 3, 7], 2), ([5], 0), ([0, 1, 4000], 2)]
)
def test_gap_in_the_labels_is_named(tmp_path: Path, labels: list[int], missing: int) -> None:
    with pytest.raises(
        ValueError, match=rf"train\.txt: label {missing} is missing, though labels go up to {labels[-1]}"
    ):
        index_of(tmp_path, "".join(f"p {label}\n" for label in labels))


@pytest.mark.parametrize("text", ["", "\n", "\n\n"])
def test_empty_index(tmp_path: Path, text: str) -> None:
    with pytest.raises(ValueError, match=r"train\.txt is empty"):
        index_of(tmp_path, text)


def test_missing_index_names_file_and_keys(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as error:
        read_index(tmp_path / "anno", tmp_path, "celebA")
    for part in (str(tmp_path / "anno" / "celebA.txt"), "INDEX_ROOT", "DATASETS", "Data/README.md"):
        assert part in str(error.value)


def test_missing_data_folder_names_the_key(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("a 0\n")
    with pytest.raises(FileNotFoundError, match=rf"DATA_ROOT = {tmp_path / 'gone'} is no folder"):
        read_index(tmp_path, tmp_path / "gone", "train")


# Images


def test_colours_arrive_as_rgb(tmp_path: Path) -> None:
    red = np.zeros((112, 112, 3), np.uint8)
    red[..., 2] = 255  # OpenCV writes blue, green, red
    cv2.imwrite(str(tmp_path / "red.png"), red)
    found = read_face(tmp_path / "red.png", "red")
    assert found.shape == (112, 112, 3) and found.dtype == np.uint8
    assert (found == [255, 0, 0]).all()


def test_grey_images_get_three_channels(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "grey.png"), np.full((112, 112), 77, np.uint8))
    assert (read_face(tmp_path / "grey.png", "grey") == 77).all()


def encoded(image: np.ndarray) -> bytes:
    return cv2.imencode(".png", image)[1].tobytes()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "x, line 3 cannot be decoded as an image"),
        (b"not an image", "x, line 3 cannot be decoded as an image"),
        (encoded(np.zeros((112, 112, 3), np.uint8))[:100], "x, line 3 cannot be decoded as an image"),
        (encoded(np.zeros((128, 112, 3), np.uint8)), "x, line 3 is 112x128, expected an aligned 112x112 face"),
        (encoded(np.zeros((112, 100, 3), np.uint8)), "x, line 3 is 100x112, expected an aligned 112x112 face"),
    ],
)
def test_bad_image_is_named(data: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        decode_image(data, "x, line 3")


# The order of samples


def drawn(sampler: BranchBatchSampler, epoch: int, step: int = 0) -> list[list[SampleKey]]:
    sampler.start_at(epoch, step)
    return list(sampler)


@given(size=st.integers(1, 40), batch=st.integers(1, 40), epoch=st.integers(0, 3), seed=st.integers(0, 5))
def test_epoch_covers_a_branch_once_but_for_the_last_partial_batch(
    size: int, batch: int, epoch: int, seed: int
) -> None:
    if batch > size:
        return
    batches = drawn(BranchBatchSampler([size], [batch], seed), epoch)
    assert [len(b) for b in batches] == [batch] * (size // batch)
    positions = [key.position for b in batches for key in b]
    assert len(set(positions)) == len(positions) == size - size % batch
    assert set(positions) <= set(range(size))
    assert [key.draw for b in batches for key in b] == list(range(len(positions)))
    assert {key.epoch for b in batches for key in b} == {epoch}


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    sampler = BranchBatchSampler([50], [10], seed=1)
    assert drawn(sampler, 0) == drawn(sampler, 0)
    orders = [
        [key.position for batch in drawn(one, epoch) for key in batch]
        for one, epoch in ((sampler, 0), (sampler, 1), (BranchBatchSampler([50], [10], seed=2), 0))
    ]
    assert orders[0] != sorted(orders[0])
    assert orders[0] != orders[1] and orders[0] != orders[2]


@given(step=st.integers(0, 6), epoch=st.integers(0, 2))
def test_start_in_the_middle_goes_on_with_the_same_batches(step: int, epoch: int) -> None:
    whole = drawn(BranchBatchSampler([31, 9], [5, 4], seed=3), epoch)
    assert drawn(BranchBatchSampler([31, 9], [5, 4], seed=3), epoch, step) == whole[step:]


def test_length_is_that_of_a_whole_epoch_wherever_it_starts() -> None:
    sampler = BranchBatchSampler([31], [5], seed=3)
    sampler.start_at(0, 4)
    assert len(sampler) == 6


def test_branches_follow_each_other_and_short_ones_start_over() -> None:
    sizes, batch_sizes = [30, 7], [5, 3]
    sampler = BranchBatchSampler(sizes, batch_sizes, seed=0)
    batches = drawn(sampler, 0)
    assert len(batches) == len(sampler) == 6
    assert all([key.branch for key in batch] == [0] * 5 + [1] * 3 for batch in batches)

    long = [key.position for batch in batches for key in batch if key.branch == 0]
    assert sorted(long) == list(range(30))
    short = [key.position for batch in batches for key in batch if key.branch == 1]
    rounds = [short[:7], short[7:14], short[14:]]  # 18 draws of 7 images
    assert sorted(rounds[0]) == sorted(rounds[1]) == list(range(7)) and len(set(rounds[2])) == 4
    assert rounds[0] != rounds[1], "each round has an order of its own"
    keys = [key for batch in batches for key in batch]
    assert len(set(keys)) == len(keys), "an image that is drawn again is another sample"


def test_the_branch_that_needs_most_steps_sets_the_length() -> None:
    assert len(BranchBatchSampler([100, 40], [50, 4], seed=0)) == 10
    short = Counter(key.position for batch in drawn(BranchBatchSampler([100, 40], [50, 4], 0), 0) for key in batch[50:])
    assert set(short.values()) == {1} and len(short) == 40


def test_batch_larger_than_the_set_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"DATASETS\.1\.batch_size = 64, but the set has only 12 images"):
        BranchBatchSampler([100, 12], [10, 64], seed=0)


# Samples


@pytest.fixture
def training_set(tiny_set: Any) -> TrainingSet:
    index = read_index(tiny_set.index_root, tiny_set.data_root, tiny_set.name)
    return TrainingSet([index, index], RandomObfuscation({"gaussian": 1.0, "pixelate": 1.0}), seed=4)


def key(**changes: int) -> SampleKey:
    return SampleKey(**{"branch": 0, "epoch": 0, "draw": 3, "position": 5, **changes})


def test_sample_is_the_image_or_its_mirror_image_with_its_label(training_set: TrainingSet, tiny_set: Any) -> None:
    flipped = Counter()
    for position in range(12):
        image = cv2.cvtColor(cv2.imread(str(tiny_set.image(position))), cv2.COLOR_BGR2RGB)
        for draw in range(8):
            sample = training_set[key(position=position, draw=draw)]
            assert sample.clear.dtype == sample.obfuscated.dtype == torch.uint8
            assert sample.clear.shape == sample.obfuscated.shape == (3, 112, 112)
            assert sample.label.dtype == torch.int64 and sample.label.item() == position // 4
            clear = sample.clear.numpy().transpose(1, 2, 0)
            mirrored = np.array_equal(clear, image[:, ::-1])
            assert mirrored or np.array_equal(clear, image)
            flipped[mirrored] += 1
    assert 25 <= flipped[True] <= 71  # 48 of 96 expected, 4.7 standard deviations either way


def test_what_is_obfuscated_is_what_is_shown(tiny_set: Any) -> None:
    """The mirror image is taken first: with one-pixel blocks, pixelation changes nothing."""
    index = read_index(tiny_set.index_root, tiny_set.data_root, tiny_set.name)
    unchanged = TrainingSet([index], RandomObfuscation({"pixelate": 1.0}, block_px=(1, 1)), seed=0)
    for draw in range(6):
        sample = unchanged[key(draw=draw)]
        assert torch.equal(sample.clear, sample.obfuscated)


def test_same_key_gives_the_same_sample(training_set: TrainingSet) -> None:
    first, second = training_set[key()], training_set[key()]
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("change", [{"epoch": 1}, {"draw": 4}, {"branch": 1}])
def test_another_key_obfuscates_anew(training_set: TrainingSet, change: dict[str, int]) -> None:
    assert not torch.equal(training_set[key()].obfuscated, training_set[key(**change)].obfuscated)


def test_another_seed_obfuscates_anew(training_set: TrainingSet) -> None:
    other = TrainingSet(training_set.branches, training_set.sampler, seed=5)
    assert not torch.equal(training_set[key()].obfuscated, other[key()].obfuscated)


def test_global_generators_do_not_matter(training_set: TrainingSet) -> None:
    first = training_set[key()]
    torch.manual_seed(99)
    np.random.seed(99)
    assert torch.equal(first.obfuscated, training_set[key()].obfuscated)


def loader(training_set: TrainingSet, workers: int) -> DataLoader[Any]:
    sampler = BranchBatchSampler([12, 12], [3, 2], seed=1)
    return make_loader(training_set, workers, torch.device("cpu"), batch_sampler=sampler)


def test_number_of_workers_does_not_matter(training_set: TrainingSet) -> None:
    alone, helped = list(loader(training_set, 0)), list(loader(training_set, 2))
    assert len(alone) == len(helped) == 6
    for one, other in zip(alone, helped, strict=True):
        assert one.clear.shape == one.obfuscated.shape == (5, 3, 112, 112) and one.label.shape == (5,)
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def delete(path: Path) -> None:
    path.unlink()


def empty(path: Path) -> None:
    path.write_bytes(b"")


def tear(path: Path) -> None:
    os.truncate(path, 1500)


def resize(path: Path) -> None:
    cv2.imwrite(str(path), np.zeros((96, 112, 3), np.uint8))


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (delete, "cannot be read: No such file"),
        (empty, "is empty: 0 bytes"),
        (tear, "is cut off after 1500 bytes"),
        (resize, "is 112x96, expected an aligned 112x112 face"),
    ],
)
def test_error_in_a_worker_is_one_line_with_file_and_line(
    training_set: TrainingSet, tiny_set: Any, workers: int, damage: Callable[[Path], None], reason: str
) -> None:
    broken = tiny_set.image(6)
    damage(broken)
    with pytest.raises((ValueError, OSError)) as error:
        list(loader(training_set, workers))
    message = message_of(error.value)
    error.value.__traceback__ = None  # it holds the loader, in a cycle: its worker would stay for five seconds
    del error
    assert message.startswith(f"{tiny_set.index_file}, line 7: {broken} {reason}")
    assert "\n" not in message and "Traceback" not in message


def test_message_of_an_error_without_text_is_its_kind() -> None:
    assert message_of(ValueError()) == "ValueError"
    assert message_of(ValueError("plain")) == "plain"
