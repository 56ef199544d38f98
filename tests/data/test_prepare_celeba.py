"""CelebA: a tiny one, in both published forms, to aligned images, indices and test pairs; stops and restarts."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from prepare_command import prepare_data

from torchkit.data.align import TEMPLATE_PX
from torchkit.data.index import read_index
from torchkit.data.prepare import celeba
from torchkit.data.prepare.celeba import ALIGNED, IN_THE_WILD, prepare_celeba
from torchkit.data.prepare.pairs import prepare_pairs
from torchkit.data.validation_set import load_validation_set

COLOURS = np.array([(220, 40, 30), (40, 200, 50), (30, 60, 210), (210, 200, 40), (50, 190, 200)])
"""RGB of the discs at the five points, in the template's order."""
GROUND = (120, 110, 100)
HEADER = "lefteye_x lefteye_y righteye_x righteye_y nose_x nose_y leftmouth_x leftmouth_y rightmouth_x rightmouth_y"
# By identity number, partition and images: 3 people to train with, 1 to validate, 4 to test.
PEOPLE = [(2880, 0, 2), (17, 0, 3), (903, 0, 1), (5, 1, 2), (44, 2, 4), (41, 2, 4), (8000, 2, 4), (42, 2, 4)]
TOTAL = sum(count for *_, count in PEOPLE)


def landmarks_of(number: int, width: int, height: int) -> np.ndarray:
    """Whole pixels, as published: the template turned, scaled and shifted a little differently for each image."""
    size = min(width, height)
    angle = 0.1 * np.sin(number)
    scale = size / 112 * (0.8 if size > 200 else 0.9)
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return np.rint((TEMPLATE_PX - 56) @ turn.T + [width / 2, height / 2]).astype(int)


def draw(points: np.ndarray, width: int, height: int) -> np.ndarray:
    y, x = np.mgrid[0:height, 0:width]
    image = np.full((height, width, 3), GROUND, np.uint8)
    radius = 0.06 * min(width, height)
    for (px, py), colour in zip(points, COLOURS, strict=True):
        image[(x - px) ** 2 + (y - py) ** 2 < radius**2] = colour
    return image


def write_form(root: Path, folder: str, landmarks: str, sizes: list[tuple[int, int]]) -> None:
    (root / folder).mkdir(parents=True)
    lines = [str(TOTAL), HEADER]
    for number in range(1, TOTAL + 1):
        width, height = sizes[number % len(sizes)]
        points = landmarks_of(number, width, height)
        image = draw(points, width, height)
        assert cv2.imwrite(str(root / folder / f"{number:06d}.jpg"), image[..., ::-1])
        lines.append(f"{number:06d}.jpg " + " ".join(f"{value:4d}" for value in points.ravel()))
    (root / "Anno" / landmarks).write_text("\r\n".join(lines) + "\r\n")


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("celeba")
    for folder in ("Anno", "Eval"):
        (root / folder).mkdir()
    order = [(identity, part) for identity, part, count in PEOPLE for _ in range(count)]
    names = [f"{number:06d}.jpg" for number in range(1, TOTAL + 1)]
    rows = list(zip(names, order, strict=True))
    (root / "Anno" / "identity_CelebA.txt").write_text("".join(f"{name} {who}\n" for name, (who, _) in rows))
    (root / "Eval" / "list_eval_partition.txt").write_text("".join(f"{name} {part}\n" for name, (_, part) in rows))
    write_form(root, "Img/img_align_celeba", "list_landmarks_align_celeba.txt", [(178, 218)])
    write_form(root, "Img/img_celeba", "list_landmarks_celeba.txt", [(400, 300), (130, 200), (256, 256)])
    return root


@pytest.fixture
def root(published: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(published, tmp_path / "CelebA"))


def prepare(root: Path, form: celeba.Form = ALIGNED, pairs: int = 20, jobs: int = 1) -> None:
    prepare_celeba(root, root / "align_crop_112", root / "Anno", form, pairs=pairs, jobs=jobs)


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir()) if file.suffix in (".jpg", ".txt")}


@pytest.mark.parametrize("form", [ALIGNED, IN_THE_WILD], ids=["aligned", "in the wild"])
def test_points_come_to_the_template_with_their_colours(root: Path, form: celeba.Form) -> None:
    prepare(root, form)
    for number in range(1, TOTAL + 1):
        image = cv2.imread(str(root / "align_crop_112" / f"{number:06d}.jpg"))[..., ::-1].astype(int)
        assert image.shape == (112, 112, 3)
        for (x, y), colour in zip(np.rint(TEMPLATE_PX).astype(int), COLOURS, strict=True):
            assert abs(image[y, x] - colour).max() < 25, (number, x, y)
        assert abs(image[71, 20] - GROUND).max() < 25
    assert sorted(path.name for path in (root / "align_crop_112").iterdir())[-1] == celeba.STAMP_NAME


def test_indices_follow_the_official_partition(root: Path) -> None:
    prepare(root)
    number = 0
    for partition, name in enumerate(["train", "valid", "test"]):
        index = read_index(root / "Anno", root / "align_crop_112", f"celebA_{name}")
        people = [(identity, count) for identity, part, count in PEOPLE if part == partition]
        expected = sorted(identity for identity, _ in people)
        paths, labels = [], []
        for identity, count in people:
            for _ in range(count):
                number += 1
                paths.append(f"{number:06d}.jpg")
                labels.append(expected.index(identity))
        assert list(index.paths) == paths and index.labels.tolist() == labels


def test_test_pairs_become_a_validation_set(root: Path) -> None:
    prepare(root)
    list_file = root / "Anno" / "celebA_test_pairs.txt"
    lines = [line.split() for line in list_file.read_text().splitlines()]
    assert Counter(flag for *_, flag in lines) == {"1": 10, "0": 10}
    index = read_index(root / "Anno", root / "align_crop_112", "celebA_test")
    label = dict(zip(index.paths, index.labels.tolist(), strict=True))
    assert all((label[first] == label[second]) == (flag == "1") for first, second, flag in lines)
    prepare_pairs(root / "align_crop_112", list_file, root / "sets", "celebA")
    assert load_validation_set(root / "sets", "celebA").same.tolist() == [flag == "1" for *_, flag in lines]


def test_run_that_was_stopped_goes_on(root: Path, published: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = root.parent / "whole"
    shutil.copytree(published, whole)
    prepare(whole)
    real, calls = celeba.align_face, iter(range(9))

    def stop_after_nine(*arguments: np.ndarray) -> np.ndarray:
        if next(calls, None) is None:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(celeba, "align_face", stop_after_nine)
    with pytest.raises(KeyboardInterrupt):
        prepare(root)
    out = root / "align_crop_112"
    assert sorted(path.name for path in out.iterdir()) == [*contents(out), celeba.STAMP_NAME]
    assert len(contents(out)) == 9
    assert not (root / "Anno" / "celebA_train.txt").exists(), "an index means that its images are there"
    before = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    again: list[int] = []
    monkeypatch.setattr(celeba, "align_face", lambda *arguments: again.append(1) or real(*arguments))
    prepare(root)
    assert len(again) == TOTAL - 9
    assert all(path.stat().st_mtime_ns == before[path.name] for path in out.iterdir() if path.name in before)
    assert contents(out) == contents(whole / "align_crop_112")
    assert contents(root / "Anno") == contents(whole / "Anno")


def test_images_that_a_crash_damaged_are_made_anew(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare(root)
    out = root / "align_crop_112"
    expected = contents(out)
    (out / "000003.jpg").unlink()
    (out / "000004.jpg").write_bytes(b"")
    (out / "000005.jpg").write_bytes(expected["000005.jpg"][:-300])
    (out / celeba.PARTIAL_NAME).mkdir()
    (out / celeba.PARTIAL_NAME / "000003.jpg").write_bytes(b"half")
    capsys.readouterr()
    prepare(root)
    assert f"3 written, {TOTAL - 3} were there" in capsys.readouterr().out
    assert contents(out) == expected and not (out / celeba.PARTIAL_NAME).exists()


def test_processes_do_not_matter(root: Path, published: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torchkit.data.prepare.parallel.ITEMS_A_TASK", 5)
    prepare(root, jobs=2)
    other = Path(shutil.copytree(published, root.parent / "other"))
    prepare(other, jobs=1)
    assert contents(root / "align_crop_112") == contents(other / "align_crop_112")


def test_error_in_a_process_names_the_line(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torchkit.data.prepare.parallel.ITEMS_A_TASK", 5)
    (root / "Img/img_align_celeba/000019.jpg").write_bytes(b"")
    with pytest.raises(ValueError, match=r"list_eval_partition\.txt, line 19: .*000019\.jpg is empty"):
        prepare(root, jobs=2)
    assert not (root / "align_crop_112" / celeba.PARTIAL_NAME).exists()


def test_images_of_two_sources_are_never_mixed(root: Path) -> None:
    prepare(root)
    with pytest.raises(ValueError, match="holds images of another source"):
        prepare(root, IN_THE_WILD)
    landmarks = root / "Anno" / ALIGNED.landmarks
    landmarks.write_text(landmarks.read_text().replace("000001.jpg   ", "000001.jpg  1"))
    with pytest.raises(ValueError, match="holds images of another source"):
        prepare(root)


def test_folder_of_somebody_else_is_left_alone(root: Path) -> None:
    (root / "align_crop_112").mkdir()
    (root / "align_crop_112" / "mine.jpg").write_bytes(b"mine")
    with pytest.raises(ValueError, match="holds files that this command did not write"):
        prepare(root)
    assert contents(root / "align_crop_112") == {"mine.jpg": b"mine"}


def test_png_edition_is_found(root: Path) -> None:
    source = root / "Img/img_align_celeba"
    for file in source.iterdir():
        assert cv2.imwrite(str(file.with_suffix(".png")), cv2.imread(str(file)))
        file.unlink()
    source.rename(root / "Img/img_align_celeba_png")
    prepare(root)
    assert len(contents(root / "align_crop_112")) == TOTAL


def kaggle(root: Path) -> None:
    """Turn the project page's files into those of Kaggle's copy: one folder in another, lists with commas."""
    (root / "Img/img_align_celeba").rename(root / "images")
    (root / "img_align_celeba").mkdir()
    (root / "images").rename(root / "img_align_celeba/img_align_celeba")
    points = (root / "Anno/list_landmarks_align_celeba.txt").read_text().split("\n")[1:]
    header = "image_id," + ",".join(points[0].split())
    lines = [header, *(",".join(line.split()) for line in points[1:])]
    (root / "list_landmarks_align_celeba.csv").write_text("\n".join(lines))
    partition = (root / "Eval/list_eval_partition.txt").read_text().replace(" ", ",")
    (root / "list_eval_partition.csv").write_text("image_id,partition\n" + partition)
    shutil.move(root / "Anno/identity_CelebA.txt", root)
    for folder in ("Anno", "Eval", "Img"):
        shutil.rmtree(root / folder)


def test_kaggles_copy_gives_the_same_files(root: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(root, tmp_path / "kaggle"))
    kaggle(other)
    prepare(root)
    prepare(other)
    assert len(contents(root / "align_crop_112")) == TOTAL
    assert contents(other / "align_crop_112") == contents(root / "align_crop_112")
    ours = {name: data for name, data in contents(root / "Anno").items() if name.startswith("celebA_")}
    assert len(ours) == 4 and contents(other / "Anno") == ours


def test_kaggles_copy_without_identities_says_what_is_missing(root: Path) -> None:
    kaggle(root)
    (root / "identity_CelebA.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"identity_CelebA\.txt .*see Data/README\.md"):
        prepare(root)


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("list_eval_partition.csv", "000003.jpg,0", "000003.jpg,7", r"csv, line 4: 000003\.jpg: partition 7"),
        ("list_eval_partition.csv", "image_id,partition\n", "", "line 1: '000001.jpg,0': expected the names"),
        ("list_landmarks_align_celeba.csv", "image_id,", "", "line 1: .*: expected the names of the columns: image_id"),
        ("list_landmarks_align_celeba.csv", "nose_x,nose_y", "nose_y,nose_x", "line 1: .*expected the names"),
        ("list_landmarks_align_celeba.csv", "000004.jpg,", "000004.jpg;", "line 5: .*x5 y5"),
    ],
)
def test_kaggles_lists_are_checked(root: Path, name: str, old: str, new: str, message: str) -> None:
    kaggle(root)
    edit(name, old, new)(root)
    with pytest.raises(ValueError, match=message):
        prepare(root)
    assert not (root / "align_crop_112").exists()


def edit(name: str, old: str, new: str) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        text = (root / name).read_text()
        assert old in text
        (root / name).write_text(text.replace(old, new, 1))

    return change


ALIGNED_NAME = "Anno/list_landmarks_align_celeba.txt"
MISTAKES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no partition": (
        lambda root: (root / "Eval/list_eval_partition.txt").unlink(),
        "list_eval_partition.txt or list_eval_partition.csv in",
    ),
    "no identities": (lambda root: (root / "Anno/identity_CelebA.txt").unlink(), "identity_CelebA.txt or .*csv in"),
    "no landmarks": (lambda root: (root / ALIGNED_NAME).unlink(), "list_landmarks_align_celeba.txt or .*csv in"),
    "no images": (lambda root: shutil.rmtree(root / "Img/img_align_celeba"), "looked for .*img_align_celeba"),
    "image is missing": (
        lambda root: (root / "Img/img_align_celeba/000007.jpg").unlink(),
        r"list_eval_partition\.txt, line 7: 000007\.jpg is not in .*img_align_celeba",
    ),
    "no identity": (edit("Anno/identity_CelebA.txt", "000002.jpg", "100002.jpg"), r"line 2: .*identity_CelebA\.txt"),
    "landmarks cut off": (edit(ALIGNED_NAME, str(TOTAL), "202599"), f"line 1: promises 202599 images, {TOTAL} "),
    "no landmarks of one": (edit(ALIGNED_NAME, "000009.jpg", "100009.jpg"), r"has no line for 000009\.jpg"),
    "unknown partition": (
        edit("Eval/list_eval_partition.txt", "000001.jpg 0", "000001.jpg 3"),
        "line 1: .*3, expected",
    ),
    "image twice": (edit("Eval/list_eval_partition.txt", "000002.jpg", "000001.jpg"), "line 2: .* stands in line 1"),
    "way out": (edit("Eval/list_eval_partition.txt", "000002.jpg", "../x.jpg"), "line 2: .*may lead out"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_lists_that_do_not_fit_end_it_before_any_work(root: Path, mistake: str) -> None:
    damage, message = MISTAKES[mistake]
    damage(root)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        prepare(root)
    assert not (root / "align_crop_112").exists() and not (root / "Anno/celebA_train.txt").exists()


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("000006.jpg", b"no image", r"line 6: .*000006\.jpg cannot be decoded"),
        (
            "000006.jpg",
            cv2.imencode(".jpg", np.zeros((300, 200, 3), np.uint8))[1].tobytes(),
            "200x300, expected 178x218",
        ),
    ],
)
def test_damaged_source_is_named_and_mending_it_is_enough(root: Path, name: str, data: bytes, message: str) -> None:
    source = root / "Img/img_align_celeba" / name
    good = source.read_bytes()
    source.write_bytes(data)
    with pytest.raises(ValueError, match=message):
        prepare(root)
    source.write_bytes(good)
    prepare(root)
    assert len(contents(root / "align_crop_112")) == TOTAL


def test_face_outside_its_image_is_named(root: Path) -> None:
    landmarks = root / "Anno" / ALIGNED.landmarks
    lines = landmarks.read_text().splitlines()
    lines[4] = "000003.jpg 900 10 930 10 915 30 905 50 925 50"
    landmarks.write_text("\n".join(lines) + "\n")
    with pytest.raises(ValueError, match=r"line 3: 000003\.jpg: all five points lie outside the image of 178x218"):
        prepare(root)


def test_too_many_test_pairs_are_told_before_any_work(root: Path) -> None:
    with pytest.raises(ValueError, match="30 pairs of one person are wanted, but there are only 24"):
        prepare(root, pairs=60)
    assert not (root / "align_crop_112").exists()


def test_command_line_uses_the_folders_of_train_yaml(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prepare_data(["celeba", "--root", str(root), "--in-the-wild", "--pairs", "0", "--jobs", "1"])
    assert f"{root}/Anno/celebA_train.txt (6 images of 3 people)" in capsys.readouterr().out
    assert len(contents(root / "align_crop_112")) == TOTAL
    assert not (root / "Anno/celebA_test_pairs.txt").exists()
