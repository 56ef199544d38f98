"""Lists of pairs: LFW's format, `path path same`, and drawing balanced folds."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchkit.data.pairs import Pair, draw_pairs, read_pairs

FOLDS = 10


def read(folder: Path, text: str) -> list[tuple[str, str, bool]]:
    (folder / "pairs.txt").write_text(text)
    return [(pair.first, pair.second, pair.same) for pair in read_pairs(folder / "pairs.txt", folder)]


def test_lfw_list_with_folds_keeps_its_order(tmp_path: Path) -> None:
    text = "2\t1\nAda_B\t1\t12\nAda_B\t3\tC\t4\nC\t1\t2\nC\t9\tAda_B\t1234\n"
    assert read(tmp_path, text) == [
        ("Ada_B/Ada_B_0001.jpg", "Ada_B/Ada_B_0012.jpg", True),
        ("Ada_B/Ada_B_0003.jpg", "C/C_0004.jpg", False),
        ("C/C_0001.jpg", "C/C_0002.jpg", True),
        ("C/C_0009.jpg", "Ada_B/Ada_B_1234.jpg", False),
    ]


def test_lfw_list_without_folds_alternates(tmp_path: Path) -> None:
    pairs = read(tmp_path, "2\na 1 2\nb 1 2\na 1 b 1\na 2 b 2\n")
    assert [(first[0], same) for first, _, same in pairs] == [("a", True), ("a", False), ("b", True), ("a", False)]


def test_names_with_spaces_stand_between_tabs(tmp_path: Path) -> None:
    pairs = read(tmp_path, "1\nAda B\t1\t2\nAda B\t1\tC D\t1\n")
    assert pairs[1][:2] == ("Ada B/Ada B_0001.jpg", "C D/C D_0001.jpg")
    assert read(tmp_path, "a b.jpg\tc.jpg\t0\n") == [("a b.jpg", "c.jpg", False)]


@pytest.mark.parametrize("extension", [".jpg", ".jpeg", ".png"])
def test_extension_is_that_of_the_file(tmp_path: Path, extension: str) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / f"a_0002{extension}").touch()
    assert read(tmp_path, "1\na 1 2\na 1 b 1\n")[0][:2] == ("a/a_0001.jpg", f"a/a_0002{extension}")


@pytest.mark.parametrize("start", ["", "\ufeff"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_mark_and_line_ends_do_not_matter(tmp_path: Path, start: str, end: str) -> None:
    (tmp_path / "pairs.txt").write_bytes((start + end.join(["a.jpg b.jpg 1", "c.jpg d.jpg 0", "", ""])).encode())
    pairs = read_pairs(tmp_path / "pairs.txt", tmp_path)
    assert pairs[1] == Pair("c.jpg", "d.jpg", False, f"{tmp_path / 'pairs.txt'}, line 2")


def test_every_wrong_line_is_told_when_asked(tmp_path: Path) -> None:
    (tmp_path / "pairs.txt").write_text("2\na 1 2\na 0 2\na 1 b 1 c\n../a 1 b 1\n")
    told: list[str] = []
    read_pairs(tmp_path / "pairs.txt", tmp_path, lambda error: told.append(str(error)))
    assert [message.split(": ")[0].rpartition(" ")[2] for message in told] == ["3", "4", "5"]


def labels_of(sizes: list[int]) -> np.ndarray:
    return np.repeat(np.arange(len(sizes)), sizes)


@given(
    sizes=st.lists(st.integers(1, 9), min_size=6, max_size=45), count=st.sampled_from([20, 40]), seed=st.integers(0, 3)
)
def test_drawn_pairs_are_distinct_true_and_balanced(sizes: list[int], count: int, seed: int) -> None:
    labels = np.random.default_rng(seed).permutation(labels_of(sizes))
    try:
        pairs = draw_pairs(labels, count, seed)
    except ValueError as error:
        assert "there are only" in str(error)
        return
    assert len(pairs) == count
    assert len({frozenset((i, j)) for i, j, _ in pairs}) == count
    assert all(i != j and (labels[i] == labels[j]) == same for i, j, same in pairs)
    folds = [pairs[k : k + count // FOLDS] for k in range(0, count, count // FOLDS)]
    assert all(sum(same for *_, same in fold) == count // FOLDS // 2 for fold in folds)
    if len(sizes) >= 2 * FOLDS:
        people = [{labels[k] for i, j, _ in fold for k in (i, j)} for fold in folds]
        assert all(one.isdisjoint(other) for one, other in combinations(people, 2))


def test_all_pairs_can_be_drawn() -> None:
    """5 people with 3 images: 15 pairs of one person, 90 of two. Twenty pairs take 10 and 10; thirty do not exist."""
    labels = labels_of([3] * 5)
    assert len(draw_pairs(labels, 20, 0)) == 20
    with pytest.raises(ValueError, match="20 pairs of one person are wanted, but there are only 15"):
        draw_pairs(labels, 40, 0)
    every = draw_pairs(labels_of([5, 2, 2, 2, 2, 2, 2, 2, 2, 2]), 20, 0)  # 19 pairs of one person
    people = [i for i, _, same in every if same]
    assert len({labels_of([5] + [2] * 9)[i] for i in people}) == 10, "everybody comes first before anybody again"


def test_drawing_repeats_with_its_seed() -> None:
    labels = labels_of([8] * 12)
    assert draw_pairs(labels, 60, 1) == draw_pairs(labels, 60, 1) != draw_pairs(labels, 60, 2)


@pytest.mark.parametrize("count", [-20, 0, 10, 30, 21])
def test_count_that_makes_no_ten_folds(count: int) -> None:
    with pytest.raises(ValueError, match=f"{count} pairs, expected a multiple of 20"):
        draw_pairs(labels_of([8] * 12), count, 0)
