"""The four forms of a validation set: found by name, read with the right colours, refused when two are there."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import bcolz
import cv2
import numpy as np
import pytest

from torchkit.data.validation_set import check_present, load_validation_set

SAME = np.array([True, False])
Images = list[np.ndarray]


@pytest.fixture(scope="module")
def faces() -> Images:
    """Four (112, 112, 3) uint8 RGB images: red left of green above blue, each with a shade of its own."""
    faces = []
    for number in range(4):
        image = np.zeros((112, 112, 3), np.uint8)
        image[:56, :56] = (250 - number, 20, 10)
        image[:56, 56:] = (10, 240 - number, 30)
        image[56:] = (5, 15, 230 - number)
        faces.append(image)
    return faces


def png(image: np.ndarray) -> bytes:
    done, data = cv2.imencode(".png", image[..., ::-1])  # OpenCV takes blue first
    assert done
    return data.tobytes()


def save_list(root: Path) -> None:
    np.save(root / "s_list.npy", SAME)


def write_bcolz(root: Path, faces: Images) -> None:
    rows = np.stack([face[..., ::-1].transpose(2, 0, 1) for face in faces]) / 127.5 - 1
    bcolz.carray(rows.astype(np.float32), rootdir=str(root / "s"), mode="w").flush()
    save_list(root)


def write_bin(root: Path, faces: Images) -> None:
    (root / "s.bin").write_bytes(pickle.dumps(([png(face) for face in faces], SAME.tolist())))


def write_lfw(root: Path, faces: Images) -> None:
    for name, number, face in zip("aaab", (1, 2, 3, 1), faces, strict=True):
        (root / "s" / name).mkdir(parents=True, exist_ok=True)
        (root / "s" / name / f"{name}_000{number}.png").write_bytes(png(face))
    (root / "s" / "pairs.txt").write_text("1\t1\na\t1\t2\na\t3\tb\t1\n")


def write_paths(root: Path, faces: Images) -> None:
    (root / "s" / "in here").mkdir(parents=True)
    for number, face in enumerate(faces):
        (root / "s" / "in here" / f"{number}.png").write_bytes(png(face))
    lines = ("in here/0.png\tin here/1.png\t1\n", "in here/2.png\tin here/3.png\t0\n")
    (root / "s" / "pairs.txt").write_text("".join(lines))


def npy_writer(dtype: type, channels_first: bool, fortran: bool = False) -> Callable[[Path, Images], None]:
    def write_npy(root: Path, faces: Images) -> None:
        array = np.stack(faces)
        if dtype is np.float32:
            array = (array / 127.5 - 1).astype(np.float32)
        array = array.transpose(0, 3, 1, 2) if channels_first else array
        np.save(root / "s.npy", np.asfortranarray(array) if fortran else np.ascontiguousarray(array))
        save_list(root)

    return write_npy


FORMS = {
    "bcolz": write_bcolz,
    "bin": write_bin,
    "lfw": write_lfw,
    "paths": write_paths,
    "npy uint8 first": npy_writer(np.uint8, True),
    "npy uint8 last": npy_writer(np.uint8, False),
    "npy float32 first": npy_writer(np.float32, True),
    "npy float32 last": npy_writer(np.float32, False),
    "npy fortran": npy_writer(np.uint8, False, fortran=True),
}


@pytest.mark.parametrize("form", FORMS)
def test_colours_and_places_of_every_form(tmp_path: Path, faces: Images, form: str) -> None:
    FORMS[form](tmp_path, faces)
    check_present(tmp_path, ["s"])
    data = load_validation_set(tmp_path, "s")
    assert data.name == "s" and data.images.dtype == np.uint8 and data.images.shape == (4, 3, 112, 112)
    assert data.rows.tolist() == [0, 1, 2, 3] and data.same.tolist() == SAME.tolist()
    for row, face in zip(data.rows, faces, strict=True):
        np.testing.assert_array_equal(data.images[row].transpose(1, 2, 0), face)


@pytest.mark.parametrize("form", ["bin", "paths"])
def test_jpegs_are_red_where_they_are_red(tmp_path: Path, faces: Images, form: str) -> None:
    done, data = cv2.imencode(".jpg", faces[0][..., ::-1])
    assert done
    if form == "bin":
        (tmp_path / "s.bin").write_bytes(pickle.dumps(([data.tobytes()] * 4, SAME.tolist())))
    else:
        (tmp_path / "s").mkdir()
        (tmp_path / "s" / "a.jpg").write_bytes(data.tobytes())
        (tmp_path / "s" / "pairs.txt").write_text("a.jpg a.jpg 1\na.jpg a.jpg 0\n")
    image = load_validation_set(tmp_path, "s").images[0].transpose(1, 2, 0).astype(int)
    assert abs(image[28, 28] - [250, 20, 10]).max() < 12 and abs(image[90, 50] - [5, 15, 230]).max() < 12


def test_repeated_images_are_held_once(tmp_path: Path, faces: Images) -> None:
    for form, rows in (("lfw", "1\na 1 2\na 1 b 1\n"), ("paths", "in here/0.png\tin here/1.png\t1\n" * 2)):
        root = tmp_path / form
        FORMS[form](root, faces)
        (root / "s" / "pairs.txt").write_text(rows)
    assert load_validation_set(tmp_path / "lfw", "s").rows.tolist() == [0, 1, 0, 2]
    assert load_validation_set(tmp_path / "paths", "s").rows.tolist() == [0, 1, 0, 1]
    np.save(tmp_path / "s.npy", np.stack([faces[1], faces[0], faces[1], faces[1]]))
    save_list(tmp_path)
    data = load_validation_set(tmp_path, "s")
    assert data.rows.tolist() == [0, 1, 0, 0] and len(data.images) == 2


def test_array_is_mapped_and_not_loaded(tmp_path: Path, faces: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    FORMS["npy uint8 last"](tmp_path, faces)
    mapped = []
    real = np.memmap
    monkeypatch.setattr(np, "memmap", lambda *args, **options: mapped.append(options) or real(*args, **options))
    load_validation_set(tmp_path, "s")
    assert [options["mode"] for options in mapped] == ["r"]


@pytest.mark.parametrize(
    ("one", "other"),
    [("bcolz", "npy uint8 last"), ("bin", "npy uint8 last"), ("lfw", "bin"), ("paths", "npy uint8 first")],
)
def test_two_forms_of_one_name_are_refused(tmp_path: Path, faces: Images, one: str, other: str) -> None:
    FORMS[one](tmp_path, faces)
    FORMS[other](tmp_path, faces)
    for look in (lambda: load_validation_set(tmp_path, "s"), lambda: check_present(tmp_path, ["s"])):
        with pytest.raises(ValueError, match=r"'s' is there in several forms: .* and .*; keep one of them"):
            look()


def test_folder_of_two_forms_is_refused(tmp_path: Path, faces: Images) -> None:
    write_bcolz(tmp_path, faces)
    (tmp_path / "s" / "pairs.txt").write_text("a.png b.png 1\n")
    with pytest.raises(ValueError, match=r"several forms: .*s/meta and .*s/pairs\.txt"):
        load_validation_set(tmp_path, "s")


def test_published_bin_may_lie_beside_its_bcolz_folder(tmp_path: Path, faces: Images) -> None:
    write_bin(tmp_path, faces[::-1])
    write_bcolz(tmp_path, faces)
    assert load_validation_set(tmp_path, "s").images[0, 0, 0, 0] == 250


def test_missing_set_names_every_place(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as error:
        check_present(tmp_path, ["here", "there"])
    for name in ("here", "there"):
        for place in (f"{name}/", f"{name}.bin", f"{name}.npy", f"{name}_list.npy"):
            assert str(tmp_path / place) in str(error.value) or place in str(error.value)


@pytest.mark.skipif(not os.environ.get("PROFACE_FACES"), reason="PROFACE_FACES names no folder with .bin files")
def test_published_bin_files_are_read() -> None:
    """Faces: warm colours, so red over blue tells the colour order; two rows a pair."""
    root = Path(os.environ["PROFACE_FACES"])
    files = sorted(root.glob("*.bin"))
    assert files, f"no .bin file in {root}"
    for file in files:
        data = load_validation_set(root, file.stem)
        assert data.images.shape[1:] == (3, 112, 112) and len(data.rows) == 2 * len(data.same)
        red, _, blue = data.images.mean(axis=(0, 2, 3))
        assert red > blue + 10
