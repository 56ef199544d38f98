"""Reading and writing verification sets, bcolz and .bin: exact values, and files that are wrong or hostile."""

from __future__ import annotations

import builtins
import json
import os
import pickle
import shutil
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bcolz
import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from torchkit.data.problems import stop
from torchkit.data.validation_set import carray, load_validation_set, write_validation_set

SAME = np.array([True, False, True])


def make_images(count: int, seed: int = 0) -> np.ndarray:
    """Random images (count, 3, 112, 112) uint8 RGB."""
    return np.random.default_rng(seed).integers(0, 256, (count, 3, 112, 112), dtype=np.uint8)


def write_published_carray(root: Path, name: str, rows: np.ndarray, same: np.ndarray, **options: Any) -> Path:
    """Write float rows as the data packages do: bcolz straight from an array, and np.save."""
    bcolz.carray(rows, rootdir=str(root / name), mode="w", **options).flush()
    np.save(root / f"{name}_list.npy", same)
    return root / name


def encode_png(image: np.ndarray) -> bytes:
    """A PNG of an image (3, H, W) uint8 RGB."""
    done, encoded = cv2.imencode(".png", np.ascontiguousarray(image.transpose(1, 2, 0)[:, :, ::-1]))
    assert done
    return encoded.tobytes()


def write_bin(root: Path, content: Any, protocol: int = 4) -> None:
    (root / "set.bin").write_bytes(pickle.dumps(content, protocol=protocol))


# --- carray folder ---


@pytest.mark.parametrize("chunk_rows", [1, 4, 6, 9])
def test_published_carray_is_bgr_in_minus_one_to_one(tmp_path: Path, chunk_rows: int) -> None:
    # Solid colours of which the published value is known by hand: 0 -> -1, 255 -> 1, 51 -> -0.6
    rows = np.empty((6, 3, 112, 112), np.float32)
    rows[:, 0], rows[:, 1], rows[:, 2] = -1.0, 1.0, -0.6  # blue, green, red
    rows[1::2, 2] = 1.0
    write_published_carray(tmp_path, "lfw", rows, SAME, chunklen=chunk_rows)
    result = load_validation_set(tmp_path, "lfw")
    assert result.name == "lfw"
    assert result.images.dtype == np.uint8
    assert result.images.shape == (2, 3, 112, 112)
    assert [image[:, 0, 0].tolist() for image in result.images] == [[51, 255, 0], [255, 255, 0]]
    assert all((image == image[:, :1, :1]).all() for image in result.images)
    assert result.rows.tolist() == [0, 1, 0, 1, 0, 1]
    assert result.rows.dtype == np.int64
    assert result.same.tolist() == SAME.tolist()


@pytest.mark.parametrize(("row_count", "chunk_rows"), [(8, 5), (6, 1), (10, 5), (4, 7)])
def test_blocks_cover_every_row_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, row_count: int, chunk_rows: int
) -> None:
    monkeypatch.setattr(carray, "ROWS_AT_ONCE", 3)
    images = make_images(row_count)
    published = images[:, ::-1].astype(np.float32) / np.float32(127.5) - np.float32(1)
    same = np.zeros(row_count // 2, bool)
    write_published_carray(tmp_path, "s", published, same, chunklen=chunk_rows)
    result = load_validation_set(tmp_path, "s")
    np.testing.assert_array_equal(result.images[result.rows], images)


def test_blocks_end_where_chunks_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(carray, "ROWS_AT_ONCE", 7)
    for chunk_rows, starts in ((3, [0, 6]), (7, [0, 7]), (8, [0, 8]), (20, [0])):
        rows = np.zeros((10, 3, 112, 112), np.float32)
        folder = write_published_carray(tmp_path, f"s{chunk_rows}", rows, np.zeros(5, bool), chunklen=chunk_rows)
        blocks = list(carray._blocks(folder, 10, chunk_rows, stop))
        assert [start for start, _ in blocks] == starts
        assert sum(len(block) for _, block in blocks) == 10


def test_round_trip_is_exact_for_every_value_in_every_channel(tmp_path: Path) -> None:
    images = np.zeros((4, 3, 112, 112), np.uint8)
    images[1] = np.resize(np.arange(256, dtype=np.uint8), (3, 112, 112))
    images[2] = images[1, ::-1, ::-1, ::-1]
    images[3] = 255
    write_validation_set(tmp_path, "s", images, np.array([True, False]))
    result = load_validation_set(tmp_path, "s")
    assert all(len(np.unique(images[1, channel])) == 256 for channel in range(3))
    np.testing.assert_array_equal(result.images[result.rows], images)


@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_round_trip_keeps_rows_and_finds_the_distinct_images(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    same = data.draw(st.lists(st.booleans(), min_size=1, max_size=4))
    picks = data.draw(st.lists(st.integers(0, 3), min_size=2 * len(same), max_size=2 * len(same)))
    values = data.draw(st.lists(st.integers(0, 255), min_size=4, max_size=4, unique=True))
    pool = make_images(4, seed=sum(values))
    pool[:, 0, 0, 0] = values  # all else may be equal: one value makes an image another one
    pool[1:, 1:] = pool[0, 1:]
    root = tmp_path_factory.mktemp("set")
    write_validation_set(root, "s", pool[picks], np.array(same))
    result = load_validation_set(root, "s")
    np.testing.assert_array_equal(result.images[result.rows], pool[picks])
    np.testing.assert_array_equal(result.same, same)
    assert len(result.images) == len(set(picks))
    assert [int(row) for row in result.rows] == [list(dict.fromkeys(picks)).index(pick) for pick in picks]


def test_written_files_are_the_published_format(tmp_path: Path) -> None:
    images = make_images(6)
    folder = write_validation_set(tmp_path, "s", images, SAME)
    assert folder == tmp_path / "s"
    store = bcolz.carray(rootdir=str(folder), mode="r")
    assert store.shape == (6, 3, 112, 112)
    assert store.dtype == np.float32
    np.testing.assert_allclose(store[:], (images[:, ::-1].astype(np.float64) - 127.5) / 127.5, atol=1e-6)
    same = np.load(tmp_path / "s_list.npy", allow_pickle=False)
    assert same.dtype == np.bool_
    assert same.tolist() == SAME.tolist()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s", "s_list.npy"]


def test_writing_again_replaces_the_set(tmp_path: Path) -> None:
    write_validation_set(tmp_path, "s", make_images(6), SAME)
    images = make_images(2, seed=1)
    write_validation_set(tmp_path, "s", images, np.array([False]))
    result = load_validation_set(tmp_path, "s")
    np.testing.assert_array_equal(result.images[result.rows], images)
    assert result.same.tolist() == [False]


def test_set_whose_list_could_not_be_written_has_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_validation_set(tmp_path, "s", make_images(6), SAME)

    def fail(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(carray, "atomic_write_bytes", fail)
    with pytest.raises(OSError, match="no space left"):
        write_validation_set(tmp_path, "s", make_images(6, seed=1), ~SAME)
    with pytest.raises(FileNotFoundError, match=r"s_list\.npy is missing"):
        load_validation_set(tmp_path, "s")


@pytest.mark.parametrize(
    ("images", "same", "message"),
    [
        (np.zeros((2, 3, 112, 112), np.float32), SAME[:1], "float32, expected .* uint8"),
        (np.zeros((2, 112, 112, 3), np.uint8), SAME[:1], r"\(2, 112, 112, 3\)"),
        (np.zeros((3, 3, 112, 112), np.uint8), SAME[:1], "3 rows, expected an even number"),
        (np.zeros((0, 3, 112, 112), np.uint8), SAME[:0], "0 rows"),
        (np.zeros((2, 3, 112, 112), np.uint8), SAME, r"\(3,\) bool, expected \(1,\) bool"),
        (np.zeros((2, 3, 112, 112), np.uint8), np.array([1]), r"\(1,\) int64, expected \(1,\) bool"),
    ],
)
def test_write_refuses_other_arrays(tmp_path: Path, images: np.ndarray, same: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        write_validation_set(tmp_path, "s", images, same)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../lfw", "/lfw"])
def test_name_must_be_a_plain_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="plain file name"):
        load_validation_set(tmp_path, name)
    with pytest.raises(ValueError, match="plain file name"):
        write_validation_set(tmp_path, name, make_images(2), SAME[:1])


def test_missing_set_names_both_places_and_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        load_validation_set(tmp_path, "agedb_30")
    message = str(caught.value)
    for part in (tmp_path / "agedb_30", tmp_path / "agedb_30.bin", "agedb_30_list.npy", "Data/README.md"):
        assert str(part) in message


@pytest.mark.parametrize("value", [1.01, -1.002, np.nan, np.inf, 255.0])
def test_value_out_of_range_names_row_and_value(tmp_path: Path, value: float) -> None:
    rows = np.zeros((6, 3, 112, 112), np.float32)
    rows[4, 1, 2, 3] = value
    folder = write_published_carray(tmp_path, "s", rows, SAME)
    with pytest.raises(ValueError, match=rf"{folder}: value {value:g} in row 4, expected -1 to 1"):
        load_validation_set(tmp_path, "s")


def test_rounding_beyond_the_range_is_tolerated(tmp_path: Path) -> None:
    rows = np.full((2, 3, 112, 112), 1.0005, np.float32)
    rows[1] = -1.0005
    write_published_carray(tmp_path, "s", rows, SAME[:1])
    assert load_validation_set(tmp_path, "s").images[:, 0, 0, 0].tolist() == [255, 0]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (np.zeros((6, 3, 112, 96), np.float32), r"shape \[6, 3, 112, 96\], expected \[N, 3, 112, 112\]"),
        (np.zeros((6, 112, 112), np.float32), r"shape \[6, 112, 112\]"),
        (np.zeros(6, np.float32), r"shape \[6\]"),
        (np.zeros((5, 3, 112, 112), np.float32), "5 rows, expected an even number"),
        (np.zeros((6, 3, 112, 112), np.float64), "dtype 'float64', expected 'float32'"),
        (np.zeros((6, 3, 112, 112), np.uint8), "dtype 'uint8', expected 'float32'"),
    ],
)
def test_other_carray_is_refused(tmp_path: Path, rows: np.ndarray, message: str) -> None:
    write_published_carray(tmp_path, "s", rows, SAME)
    with pytest.raises(ValueError, match=message):
        load_validation_set(tmp_path, "s")


@pytest.mark.parametrize(
    ("same", "message"),
    [
        (np.zeros(2, bool), r"\(2,\) bool, expected \(3,\) bool"),
        (np.zeros(6, bool), r"\(6,\) bool"),
        (np.zeros(3, np.int64), r"\(3,\) int64"),
        (np.array([True, None, False], object), "no array of bools"),
    ],
)
def test_other_list_is_refused(tmp_path: Path, same: np.ndarray, message: str) -> None:
    write_validation_set(tmp_path, "s", make_images(6), SAME)
    np.save(tmp_path / "s_list.npy", same, allow_pickle=True)
    with pytest.raises(ValueError, match=f"s_list.npy.*{message}"):
        load_validation_set(tmp_path, "s")


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def cut_in_the_header(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:20])


def replace_the_mark(path: Path) -> None:
    path.write_bytes(b"blqk" + path.read_bytes()[4:])


def lie_about_the_size(path: Path) -> None:
    content = bytearray(path.read_bytes())
    struct.pack_into("<I", content, 20, 2**31)  # nbytes of the blosc header
    path.write_bytes(content)


def damage_the_content(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[36:] = bytes(byte ^ 0x5A for byte in content[36:])
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (Path.unlink, "__1.blp is missing"),
        (cut_off, "__1.blp is cut off"),
        (cut_in_the_header, "__1.blp is no bcolz chunk"),
        (replace_the_mark, "__1.blp is no bcolz chunk"),
        (lie_about_the_size, "__1.blp holds 2147483648 bytes, expected 301056 "),
        (damage_the_content, "cannot be read by bcolz .*decompress"),
    ],
)
@pytest.mark.parametrize("row_count", [4, 6])  # chunk 1 is the last one, or one of three
def test_damaged_chunk_is_a_clear_error(
    tmp_path: Path, damage: Callable[[Path], None], message: str, row_count: int
) -> None:
    rows = make_images(row_count).astype(np.float32) / 255
    folder = write_published_carray(tmp_path, "s", rows, SAME[: row_count // 2], chunklen=2)
    damage(folder / "data" / "__1.blp")
    with pytest.raises(ValueError, match=message):
        load_validation_set(tmp_path, "s")


def test_last_chunk_that_holds_too_few_rows_is_refused(tmp_path: Path) -> None:
    rows = make_images(6).astype(np.float32) / 255
    folder = write_published_carray(tmp_path, "s", rows, SAME, chunklen=4)
    write_published_carray(tmp_path, "short", rows[:5], SAME, chunklen=4)
    shutil.copy(tmp_path / "short" / "data" / "__1.blp", folder / "data" / "__1.blp")
    with pytest.raises(ValueError, match="holds 150528 bytes, expected 301056"):
        load_validation_set(tmp_path, "s")


@pytest.mark.parametrize(
    ("file", "key", "value", "message"),
    [
        ("sizes", "shape", [6.0, 3, 112, 112], r"shape \[6.0"),
        ("sizes", "shape", [-6, 3, 112, 112], "-6 rows"),
        ("sizes", "shape", [10**9, 3, 112, 112], "__6.blp is missing"),
        ("sizes", "shape", None, "shape None"),
        ("storage", "dtype", "O", "dtype 'O', expected 'float32'"),
        ("storage", "dtype", ["float32"], "dtype .'float32'., expected 'float32'"),
        ("storage", "chunklen", 0, "chunklen 0"),
        ("storage", "chunklen", 10**6, "chunklen 1000000, expected 1 to 14266"),
        ("storage", "chunklen", True, "chunklen True"),
        ("storage", "cparams", None, "cannot be read by bcolz"),
        ("storage", "expectedlen", "many", "cannot be read by bcolz"),
    ],
)
def test_wrong_description_is_refused(tmp_path: Path, file: str, key: str, value: object, message: str) -> None:
    rows = np.zeros((6, 3, 112, 112), np.float32)
    folder = write_published_carray(tmp_path, "s", rows, SAME, chunklen=1)
    path = folder / "meta" / file
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    with pytest.raises(ValueError, match=message):
        load_validation_set(tmp_path, "s")


@pytest.mark.parametrize(("text", "message"), [("[]", "JSON list"), ("{", "not JSON"), ("[" * 10**5, "not JSON")])
def test_description_that_is_no_json_object_is_refused(tmp_path: Path, text: str, message: str) -> None:
    folder = write_validation_set(tmp_path, "s", make_images(6), SAME)
    (folder / "meta" / "storage").write_text(text)
    with pytest.raises(ValueError, match=f"storage .*{message}"):
        load_validation_set(tmp_path, "s")


def test_folder_that_is_no_carray_is_refused(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "s_list.npy").write_bytes(b"")
    with pytest.raises(ValueError, match=r"s is neither a bcolz carray \(meta/ is missing\) nor a folder of images"):
        load_validation_set(tmp_path, "s")


def test_carray_of_objects_is_refused_before_bcolz_unpickles_it(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    bcolz.carray(np.array([Hostile(marker)] * 2, object), rootdir=str(tmp_path / "s"), mode="w").flush()
    np.save(tmp_path / "s_list.npy", SAME[:1])
    sizes = tmp_path / "s" / "meta" / "sizes"
    sizes.write_text(json.dumps(json.loads(sizes.read_text()) | {"shape": [2, 3, 112, 112]}))
    with pytest.raises(ValueError, match="dtype 'object', expected 'float32'"):
        load_validation_set(tmp_path, "s")
    assert not marker.exists()


# --- .bin ---


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_bin_of_every_protocol_is_read_as_rgb(tmp_path: Path, protocol: int) -> None:
    pool = make_images(3)
    picks = [2, 0, 1, 2, 2, 2]
    write_bin(tmp_path, ([encode_png(pool[pick]) for pick in picks], SAME.tolist()), protocol)
    result = load_validation_set(tmp_path, "set")
    np.testing.assert_array_equal(result.images[result.rows], pool[picks])
    assert result.images.shape == (3, 3, 112, 112)
    assert result.images.dtype == np.uint8
    assert result.rows.tolist() == [0, 1, 2, 0, 0, 0]
    assert result.same.tolist() == SAME.tolist()
    assert result.same.dtype == np.bool_


def test_bin_from_python_2_is_read(tmp_path: Path) -> None:
    # There, images are `str`: opcode BINSTRING ("T"); the rest as in any pickle of protocol 2.
    pool = make_images(2)
    images = b"".join(b"T" + struct.pack("<i", len(png)) + png for png in map(encode_png, pool))
    (tmp_path / "set.bin").write_bytes(b"\x80\x02" + b"](" + images + b"e" + b"](\x88e" + b"\x86.")
    result = load_validation_set(tmp_path, "set")
    np.testing.assert_array_equal(result.images[result.rows], pool)
    assert result.same.tolist() == [True]


@pytest.mark.parametrize("shape", [(-1,), (-1, 1)])
@pytest.mark.parametrize("protocol", range(5))
def test_bin_of_uint8_arrays_is_read(tmp_path: Path, shape: tuple[int, ...], protocol: int) -> None:
    pool = make_images(2)
    arrays = [np.frombuffer(encode_png(image), np.uint8).copy().reshape(shape) for image in pool]
    write_bin(tmp_path, (arrays, [False]), protocol)
    result = load_validation_set(tmp_path, "set")
    np.testing.assert_array_equal(result.images[result.rows], pool)


def test_equal_images_in_different_encodings_are_one_image(tmp_path: Path) -> None:
    image = make_images(1)[0]
    bgr = np.ascontiguousarray(image.transpose(1, 2, 0)[:, :, ::-1])
    encodings = [cv2.imencode(".png", bgr, [cv2.IMWRITE_PNG_COMPRESSION, level])[1].tobytes() for level in (0, 9)]
    assert encodings[0] != encodings[1]
    write_bin(tmp_path, (encodings, [True]))
    result = load_validation_set(tmp_path, "set")
    assert result.rows.tolist() == [0, 0]
    np.testing.assert_array_equal(result.images, image[None])


def test_folder_is_preferred_to_bin(tmp_path: Path) -> None:
    pool = make_images(4)
    write_bin(tmp_path, ([encode_png(image) for image in pool[:2]], [True]))
    write_validation_set(tmp_path, "set", pool[2:], np.array([False]))
    np.testing.assert_array_equal(load_validation_set(tmp_path, "set").images, pool[2:])


GOOD = encode_png(make_images(1)[0])
SMALL = encode_png(np.zeros((3, 100, 112), np.uint8))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (([GOOD, b"no image"], [True]), "image 1 cannot be decoded"),
        (([b"", GOOD], [True]), r"image 0 cannot be decoded"),
        (([GOOD, GOOD, SMALL, GOOD], [True, True]), "image 2 is 112 x 100 px, expected 112 x 112"),
        (([GOOD] * 3, [True]), "3 rows, expected an even number"),
        (([], []), "0 rows"),
        (([GOOD] * 4, [True]), r"\(1,\) bool, expected \(2,\) bool"),
        (([GOOD] * 2, [2]), "something else than bools"),
        (([GOOD] * 2, [None]), "something else than bools"),
        (([GOOD] * 2, [1.0]), "is not read: it uses the opcode BINFLOAT"),
        (([GOOD, "text"], [True]), "image 1 is of type str, expected bytes"),
        (([GOOD, np.zeros((4, 4), np.uint8)], [True]), "image 1 is of type array of another type"),
        (([GOOD, np.zeros(4, np.int16)], [True]), "image 1 is of type array of another type"),
        (([GOOD, np.zeros(4, np.int8)], [True]), "image 1 is of type array of another type"),
        ([GOOD] * 2, "holds a list of other content"),
        (([GOOD] * 2, [True], 3), "holds a tuple of other content"),
        (({"a": 1}, [True]), "is not read: it uses the opcode EMPTY_DICT"),
        (7, "holds a int of other content"),
    ],
)
def test_other_bin_is_refused(tmp_path: Path, content: Any, message: str) -> None:
    write_bin(tmp_path, content)
    with pytest.raises(ValueError, match=rf"set\.bin.*{message}.*(Data/README.md|same package)"):
        load_validation_set(tmp_path, "set")


def test_array_whose_length_is_a_lie_is_refused(tmp_path: Path) -> None:
    content = pickle.dumps(([np.zeros(4, np.uint8)] * 2, [True]), protocol=4)
    state = b"K\x01K\x04\x85"  # version 1, shape (4,)
    assert content.count(state) == 1
    (tmp_path / "set.bin").write_bytes(content.replace(state, b"K\x01K\x05\x85"))
    with pytest.raises(ValueError, match="image 0 is of type array of another type"):
        load_validation_set(tmp_path, "set")


def test_integers_0_and_1_are_taken_as_bools(tmp_path: Path) -> None:
    write_bin(tmp_path, ([GOOD] * 4, [0, 1]))
    result = load_validation_set(tmp_path, "set")
    assert result.same.dtype == np.bool_
    assert result.same.tolist() == [False, True]


class Hostile:
    """An object whose unpickling creates a file."""

    def __init__(self, marker: Path, call: Callable[..., Any] = os.system) -> None:
        self.marker = marker
        self.call = call

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        if self.call is os.system:
            return os.system, (f"touch '{self.marker}'",)
        return self.call, (f"open({str(self.marker)!r}, 'w').close()",)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("call", [os.system, builtins.exec, builtins.eval])
def test_hostile_bin_runs_nothing(tmp_path: Path, protocol: int, call: Callable[..., Any]) -> None:
    marker = tmp_path / "marker"
    content = ([GOOD, Hostile(marker, call)], [True])
    pickle.loads(pickle.dumps(content, protocol))
    assert marker.exists()  # it works where it is let
    marker.unlink()
    write_bin(tmp_path, content, protocol)
    name = f"(posix|nt|builtins|__builtin__).{call.__name__}"
    with pytest.raises(ValueError, match=rf"set\.bin is not read: it asks for the global {name},"):
        load_validation_set(tmp_path, "set")
    assert not marker.exists()


@pytest.mark.parametrize(
    ("opcodes", "message"),
    [
        # A stand-in as the target of a state: neither its attributes nor its class can be set.
        (b"c_codecs\nencode\n}\x8c\x03keyK\x01sb.", "is not read"),
        (b"c_codecs\nencode\nN}\x8c\x09__class__cnumpy\ndtype\ns\x86b.", "is not read"),
        # Names that lie beside the allowed ones
        (b"c_codecs\ndecode\n.", "global _codecs.decode"),
        (b"cnumpy\nload\n.", "global numpy.load"),
        (b"\x8c\x05numpy\x8c\x0endarray.tofile\x93.", "global numpy.ndarray.tofile"),
        (b"c_codecs\nencode\n\x8c\x01a\x8c\x05rot13\x86R.", "encodes text as 'rot13'"),
        # Lengths far beyond the file, and damage
        (b"\x8e" + struct.pack("<Q", 2**62) + b"a.", "is not read"),
        (b"\x82\x01.", "is not read"),
        (b"", "is not read"),
        (b"](", "is not read"),
        (b"Pname\n.", "is not read"),
    ],
)
def test_other_tricks_in_a_bin_are_refused(tmp_path: Path, opcodes: bytes, message: str) -> None:
    (tmp_path / "set.bin").write_bytes(b"\x80\x04" + opcodes)
    with pytest.raises(ValueError, match=rf"set\.bin.*{message}"):
        load_validation_set(tmp_path, "set")


def test_memo_number_in_a_bin_takes_no_memory(tmp_path: Path) -> None:
    (tmp_path / "set.bin").write_bytes(b"\x80\x02]r" + struct.pack("<I", 2**24) + b".")
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="holds a list of other content"):
            load_validation_set(tmp_path, "set")
        assert tracemalloc.get_traced_memory()[1] < 2**23
    finally:
        tracemalloc.stop()


@settings(max_examples=150, deadline=None)
@given(tail=st.binary(max_size=40), cut=st.integers(0, 200))
def test_any_bytes_give_a_set_or_a_value_error(tmp_path_factory: pytest.TempPathFactory, tail: bytes, cut: int) -> None:
    root = tmp_path_factory.getbasetemp()
    start = pickle.dumps(([np.zeros(3, np.uint8), b"a"], [True]), protocol=2)[:cut]
    (root / "set.bin").write_bytes(start + tail)
    with pytest.raises(ValueError, match=r"set\.bin"):
        load_validation_set(root, "set")
