"""torchkit.data.prepare folder, lfw, bin and verify: from raw files to data that are right, or a clear error."""

from __future__ import annotations

import os
import pickle
import re
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from prepare_command import prepare_data

from torchkit.data.align import TEMPLATE_PX
from torchkit.data.index import read_index
from torchkit.data.prepare.bin_files import prepare_bin
from torchkit.data.prepare.folder import prepare_folder
from torchkit.data.prepare.lfw import prepare_lfw
from torchkit.data.prepare.verify import NOTES_SHOWN, Findings, verify_index, verify_set
from torchkit.data.validation_set import load_validation_set, write_validation_set


def face(seed: int) -> np.ndarray:
    """(112, 112, 3) uint8 RGB; 64 blocks, so that the file is small."""
    return np.kron(np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8), np.ones((14, 14, 1), np.uint8))


def write_png(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image[..., ::-1])


PEOPLE, IMAGES_EACH = 9, 4


@pytest.fixture
def people(tmp_path: Path) -> Path:
    for person in range(PEOPLE):
        for number in range(IMAGES_EACH):
            write_png(tmp_path / "faces" / f"person {person}" / f"{number}.png", face(100 * person + number))
    return tmp_path / "faces"


# folder


def test_folder_becomes_an_index(people: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (people / "notes.txt").touch()
    (people / "person 0" / "list.txt").touch()
    (people / "person 0" / ".hidden.png").touch()
    (people / "nobody").mkdir()
    (people / ".hidden").mkdir()
    prepare_folder(people, "mine", tmp_path / "index", tmp_path / "sets")
    index = read_index(tmp_path / "index", people, "mine")
    paths = [f"person {person}/{number}.png" for person in range(PEOPLE) for number in range(IMAGES_EACH)]
    assert list(index.paths) == paths
    assert index.labels.tolist() == np.repeat(np.arange(PEOPLE), IMAGES_EACH).tolist()
    assert "ignored: 5 files and folders" in capsys.readouterr().out
    assert not (tmp_path / "sets").exists()


def test_held_out_people_are_in_the_set_and_not_in_the_index(people: Path, tmp_path: Path) -> None:
    prepare_folder(people, "mine", tmp_path / "index", tmp_path / "sets", holdout=3, pairs=20, seed=5)
    index = read_index(tmp_path / "index", people, "mine")
    assert index.num_classes == PEOPLE - 3 and len(index) == (PEOPLE - 3) * IMAGES_EACH
    trained = {path.split("/")[0] for path in index.paths}
    lines = [line.split("\t") for line in (tmp_path / "index" / "mine_pairs.txt").read_text().splitlines()]
    held_out = {path.split("/")[0] for line in lines for path in line[:2]}
    assert len(held_out) == 3 and not held_out & trained
    data = load_validation_set(tmp_path / "sets", "mine")
    assert data.same.reshape(10, 2).sum(axis=1).tolist() == [1] * 10
    for number, (first, second, flag) in enumerate(lines):
        assert data.same[number] == (flag == "1") == (first.split("/")[0] == second.split("/")[0])
        for row, path in ((2 * number, first), (2 * number + 1, second)):
            image = cv2.imread(str(people / path))[..., ::-1]
            np.testing.assert_array_equal(data.images[data.rows[row]].transpose(1, 2, 0), image)
    found = Findings()
    digests = verify_index(tmp_path / "index" / "mine.txt", people, found)
    verify_set(tmp_path / "sets", "mine", found, digests)
    assert not found.problems and not found.notes


def test_seed_decides_who_is_held_out(people: Path, tmp_path: Path) -> None:
    texts = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        prepare_folder(people, name, tmp_path / "index", tmp_path / "sets", holdout=3, pairs=20, seed=seed)
        texts.append((tmp_path / "index" / f"{name}.txt").read_text())
    assert texts[0] == texts[1] != texts[2]


def write_empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize(
    ("damage", "options", "message"),
    [
        (lambda root: write_empty(root / "person 8/3.png"), {}, r"person 8/3\.png is empty"),
        (lambda root: write_png(root / "person 8/3.png", face(0)[:90]), {}, r"3\.png is 112x90, expected an aligned"),
        (lambda root: write_png(root / "person\n9/3.png", face(0)), {}, "an index cannot hold this name"),
        (lambda root: None, {"holdout": 1}, r"--holdout 1: expected 0, or 2 to 8 of the 9 people"),
        (lambda root: None, {"holdout": 9}, r"--holdout 9: expected 0, or 2 to 8 of the 9 people"),
        (lambda root: None, {"holdout": -2}, "--holdout -2"),
        (lambda root: None, {"holdout": 3, "pairs": 100}, "50 pairs of one person are wanted, but there are only 18"),
        (lambda root: None, {"holdout": 3, "pairs": 7}, "7 pairs, expected a multiple of 20"),
        (lambda root: root.rename(root.parent / "gone"), {}, "faces is no folder"),
        (lambda root: (root.rename(root.parent / "gone"), root.mkdir()), {}, "holds no person's folder"),
    ],
)
def test_folder_that_is_refused_leaves_nothing(
    people: Path, tmp_path: Path, damage: Callable[[Path], object], options: dict[str, int], message: str
) -> None:
    damage(people)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        prepare_folder(people, "mine", tmp_path / "index", tmp_path / "sets", **options)
    assert not (tmp_path / "index").exists() and not (tmp_path / "sets").exists()


def test_folder_on_the_command_line(people: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = ["folder", "--root", str(people), "--name", "mine", "--out", str(tmp_path / "sets")]
    prepare_data([*base, "--holdout", "2", "--pairs", "20", "--jobs", "1"])
    out = capsys.readouterr().out
    assert f"index: {tmp_path / 'mine.txt'} (28 images of 7 people)" in out and "(20 pairs of 2 people)" in out
    with pytest.raises(ValueError, match="--pairs 20 needs --holdout N"):
        prepare_data([*base, "--pairs", "20"])


# lfw


def test_lfw_is_aligned_and_keeps_its_colours(tmp_path: Path) -> None:
    colours = [(200, 30, 20), (20, 180, 40), (30, 20, 220)]
    moves = {"Ann/Ann_0001": (60, 70), "Ann/Ann_0002": (10, 5), "Bo_C/Bo_C_0003": (100, 90)}
    lines = []
    for (stem, shift), colour in zip(moves.items(), colours, strict=True):
        image = np.zeros((250, 250, 3), np.uint8)
        image[shift[1] : shift[1] + 112, shift[0] : shift[0] + 112] = colour
        image[shift[1] : shift[1] + 20, shift[0] : shift[0] + 112] = 255 - np.array(colour)  # the forehead
        write_png(tmp_path / "lfw" / f"{stem}.png", image)
        lines.append("\t".join([f"{stem}.png", *map(str, (TEMPLATE_PX + shift).ravel())]))
    (tmp_path / "landmarks.txt").write_text("\n".join(lines) + "\n")
    (tmp_path / "pairs.txt").write_text("1\t1\nAnn\t1\t2\nAnn\t2\tBo_C\t3\n")
    prepare_lfw(tmp_path / "lfw", tmp_path / "pairs.txt", tmp_path / "landmarks.txt", tmp_path / "sets")
    data = load_validation_set(tmp_path / "sets", "lfw")
    assert data.rows.tolist() == [0, 1, 1, 2] and data.same.tolist() == [True, False]
    for image, colour in zip(data.images.transpose(0, 2, 3, 1), colours, strict=True):
        assert (image[21:] == colour).all() and (image[:19] == 255 - np.array(colour)).all()


# bin


def test_bin_becomes_the_same_set(tmp_path: Path) -> None:
    pool = [cv2.imencode(".jpg", face(seed))[1].tobytes() for seed in range(3)]
    entries = [pool[k] for k in (2, 0, 2, 1, 1, 0)]
    (tmp_path / "s.bin").write_bytes(pickle.dumps((entries, [True, False, True])))
    prepare_bin(tmp_path / "s.bin", tmp_path / "sets")
    before, after = load_validation_set(tmp_path, "s"), load_validation_set(tmp_path / "sets", "s")
    np.testing.assert_array_equal(after.images[after.rows], before.images[before.rows])
    assert after.rows.tolist() == [0, 1, 0, 2, 2, 1] and after.same.tolist() == [True, False, True]


@pytest.mark.parametrize(
    ("name", "message"), [("s.npy", r"s\.npy: expected a file NAME\.bin"), ("s.bin", "no such file")]
)
def test_other_file_than_a_bin(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        prepare_bin(tmp_path / name, tmp_path / "sets")


# verify


@pytest.fixture
def index_file(people: Path) -> Path:
    lines = [f"person {person}/{number}.png {person}" for person in range(3) for number in range(IMAGES_EACH)]
    (people / "train.txt").write_text("\n".join(lines) + "\n")
    return people / "train.txt"


def change_line(number: int, text: str) -> Callable[[Path], None]:
    def change(file: Path) -> None:
        lines = file.read_text().splitlines()
        lines[number - 1] = text
        file.write_text("\n".join(lines) + "\n")

    return change


def copy_image(source: str, target: str) -> Callable[[Path], object]:
    return lambda file: (file.parent / target).write_bytes((file.parent / source).read_bytes())


INDEX_MISTAKES: dict[str, tuple[Callable[[Path], object], list[str]]] = {
    "nothing": (lambda file: None, []),
    "form": (change_line(2, "person 0/1.png"), ["line 2: 'person 0/1.png'"]),
    "way up": (change_line(2, "../1.png 0"), ["line 2: '../1.png' may lead out"]),
    "twice": (change_line(2, "person 0/0.png 0"), ["line 2: person 0/0.png stands in line 1 already"]),
    "gap": (change_line(12, "person 2/3.png 4"), ["label 3 is missing"]),
    "missing": (lambda file: (file.parent / "person 1/2.png").unlink(), ["line 7: .*person 1/2.png cannot be read"]),
    "empty": (lambda file: write_empty(file.parent / "person 1/2.png"), ["line 7: .*is empty"]),
    "torn": (lambda file: os.truncate(file.parent / "person 1/2.png", 100), ["line 7: .*is cut off after 100 bytes"]),
    "size": (lambda file: write_png(file.parent / "person 2/0.png", face(1)[:50]), ["line 9: .*is 112x50"]),
    "one image, two people": (
        copy_image("person 0/1.png", "person 2/3.png"),
        ["line 12: person 2/3.png is the same image as person 0/1.png in line 2, with the label 2 and not 0"],
    ),
    "one person": (lambda file: file.write_text("person 0/0.png 0\nperson 0/1.png 0\n"), ["show one person"]),
    "empty index": (lambda file: file.write_text(""), ["is empty"]),
    "no index": (lambda file: file.unlink(), ["index not found"]),
    "several": (
        lambda file: (
            change_line(1, "x")(file),
            change_line(5, "person 1/9.png 1")(file),
            change_line(12, "person 2/3.png 5")(file),
        ),
        ["line 1: 'x'", "label 3 is missing", "line 5: .*person 1/9.png cannot be read"],
    ),
}


@pytest.mark.parametrize("mistake", INDEX_MISTAKES)
def test_verify_finds_what_is_wrong_with_an_index(index_file: Path, mistake: str) -> None:
    damage, messages = INDEX_MISTAKES[mistake]
    damage(index_file)
    found = Findings()
    verify_index(index_file, index_file.parent, found)
    check(found, messages)


def check(found: Findings, messages: list[str]) -> None:
    assert len(found.problems) == len(messages), found.problems
    for problem, message in zip(found.problems, messages, strict=True):
        assert re.search(message, problem), problem


def test_what_may_be_meant_is_a_note(index_file: Path) -> None:
    copy_image("person 0/1.png", "person 0/2.png")(index_file)
    with index_file.open("a") as file:
        file.write("person 3/0.png 3\n")
    found = Findings()
    verify_index(index_file, index_file.parent, found)
    assert not found.problems and len(found.notes) == 2
    assert "1 people have one image only" in found.notes[0]
    assert "line 3: person 0/2.png is the same image as person 0/1.png in line 2" in found.notes[1]


IMAGES = np.stack([face(seed).transpose(2, 0, 1) for seed in range(40)])
ROWS = np.arange(40)
SAME = np.tile([True, False], 10)


def rows_with(changes: dict[int, int]) -> np.ndarray:
    rows = ROWS.copy()
    for row, image in changes.items():
        rows[row] = image
    return rows


SETS: dict[str, tuple[np.ndarray, np.ndarray, list[str], list[str]]] = {
    "nothing": (ROWS, SAME, [], []),
    "few pairs": (ROWS[:18], SAME[:9], ["9 pairs, expected at least 10"], []),
    "one kind": (ROWS, np.ones(20, bool), ["all pairs are of one person; evaluation needs both kinds"], []),
    "one kind in a fold": (
        ROWS,
        np.concatenate([[True, True], SAME[2:]]),
        ["fold 1 has pairs of one person only"],
        [],
    ),
    "fold twice": (
        rows_with({20: 0, 21: 1, 22: 2, 23: 3}),
        SAME,
        ["folds 1 and 6 hold the same pairs"],
        ["pair 10 is pair 0 again", "pair 11 is pair 1 again"],
    ),
    "contradiction": (
        rows_with({6: 1, 7: 0}),
        SAME,
        ["pairs 0 and 3 are the same images, called two people once"],
        [],
    ),
    "itself as two": (rows_with({3: 2}), SAME, ["pair 1 is one image twice, called two people"], []),
    "itself as one": (rows_with({1: 0}), SAME, [], ["pair 0 is one image twice, called one person"]),
}


@pytest.mark.parametrize("case", SETS)
def test_verify_finds_what_is_wrong_with_a_set(tmp_path: Path, case: str) -> None:
    rows, same, problems, notes = SETS[case]
    write_validation_set(tmp_path, "s", IMAGES, same, rows)
    found = Findings()
    verify_set(tmp_path, "s", found)
    check(found, problems)
    check(Findings(found.notes), notes)


def test_verify_tells_every_wrong_image_of_every_form(tmp_path: Path) -> None:
    good = [cv2.imencode(".png", face(seed))[1].tobytes() for seed in range(4)]
    (tmp_path / "bin.bin").write_bytes(pickle.dumps((["x", good[0], b"", good[1]], [True])))
    floats = np.zeros((4, 3, 112, 112), np.float32)
    floats[1, 0, 0, 0], floats[3, 2, 5, 5] = 2, -7
    np.save(tmp_path / "npy.npy", floats)
    write_validation_set(tmp_path, "carray", IMAGES[:4], np.array([True, False]))
    (tmp_path / "carray_list.npy").unlink()
    chunk = tmp_path / "carray" / "data" / "__0.blp"
    os.truncate(chunk, 100)
    (tmp_path / "lfw").mkdir()
    (tmp_path / "lfw" / "pairs.txt").write_text("a.png b.png 1\n../c.png d.png 0\ne.png\n")
    expected = {
        "bin": [r"\(1,\) bool, expected \(2,\)", "image 0 is of type str", "image 2 cannot be decoded"],
        "npy": [r"npy_list\.npy is missing", "value 2 in row 1", "value -7 in row 3"],
        "carray": [r"__0\.blp is cut off", r"carray_list\.npy is missing"],
        "lfw": ["line 2: .*may lead out", "line 3: 'e.png'", r"line 1: .*a\.png cannot", r"line 1: .*b\.png cannot"],
        "nowhere": ["no validation set 'nowhere'"],
    }
    for name, messages in expected.items():
        found = Findings()
        verify_set(tmp_path, name, found)
        check(found, messages)


def test_verify_finds_training_images_in_a_set(index_file: Path, tmp_path: Path) -> None:
    images = np.concatenate(
        [IMAGES[:39], cv2.imread(str(index_file.parent / "person 1/2.png"))[None, ..., ::-1].transpose(0, 3, 1, 2)]
    )
    write_validation_set(tmp_path, "s", images, SAME)
    found = Findings()
    verify_set(tmp_path, "s", found, verify_index(index_file, index_file.parent, found))
    # Image 0 to 3 of IMAGES have the seeds of person 0.
    check(found, [f"the image of row {row} is in the index too" for row in (0, 1, 2, 3, 39)])


def run_verify(*arguments: object) -> int:
    try:
        prepare_data(["verify", "--jobs", "1", *map(str, arguments)])
    except SystemExit as stop:
        assert isinstance(stop.code, int)
        return stop.code
    return 0


def test_verify_on_the_command_line(index_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_validation_set(tmp_path, "s", np.concatenate([IMAGES[4:], 255 - IMAGES[:4]]), SAME)
    assert run_verify("--index", index_file, "--root", index_file.parent, "--set", tmp_path / "s") == 0
    assert capsys.readouterr().out == "0 problems, 0 notes\n"
    write_validation_set(tmp_path, "s", np.zeros((80, 3, 112, 112), np.uint8), np.tile(SAME, 2))
    assert run_verify("--set", tmp_path / "s") == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines].count("note") == NOTES_SHOWN + 1
    assert lines[-1].endswith(" notes") and not lines[-1].startswith("0 problems")


def test_set_may_be_given_by_its_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    encoded = [cv2.imencode(".png", face(seed))[1].tobytes() for seed in range(20)]
    (tmp_path / "v1.2.bin").write_bytes(pickle.dumps((encoded, [True] * 10)))
    (tmp_path / "folder.bin").mkdir()
    for given in ("v1.2.bin", "v1.2"):
        assert run_verify("--set", tmp_path / given) == 1
        assert capsys.readouterr().out.startswith("wrong: v1.2: all pairs are of one person")
    assert run_verify("--set", tmp_path / "folder.bin") == 1  # a folder's name is the set's
    assert "folder.bin is neither a bcolz carray" in capsys.readouterr().out


NOT_ENOUGH = ["", "--index a.txt", "--root a", "--set s --root a", "--index a.txt --root a --data b"]


@pytest.mark.parametrize("arguments", NOT_ENOUGH)
def test_verify_without_something_to_verify(arguments: str) -> None:
    with pytest.raises(ValueError, match="give --index FILE with --root DIR, or --data DIR/NAME"):
        run_verify(*arguments.split())
