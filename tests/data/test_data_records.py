"""Training sets in every form: the same images give the same samples, and each form is found by its name."""

from __future__ import annotations

import pickle
import shutil
import struct
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import record_files as rf
import torch
from hypothesis import given
from hypothesis import strategies as st
from prepare_command import prepare_data

from torchkit.data.index import Index, read_index
from torchkit.data.index import recordio as recordio_module
from torchkit.data.index import tfrecord as tfrecord_module
from torchkit.data.index.example import bytes_feature, int64_feature
from torchkit.data.index.packed import StringPacker
from torchkit.data.index.record_file import OPEN_FILES, RecordFile
from torchkit.data.sampler import BranchBatchSampler
from torchkit.data.training_set import SampleKey, TrainingSet, make_loader
from torchkit.obfuscation import RandomObfuscation

LABELS = [k // 4 for k in range(12)]


@dataclass(frozen=True)
class Roots:
    """Where a set in some form is, and the images that were put into it."""

    index: Path
    data: Path
    images: list[bytes]


@pytest.fixture
def roots(tiny_set: Any, tmp_path: Path) -> Roots:
    made = Roots(tmp_path / "i", tmp_path / "d", [tiny_set.image(k).read_bytes() for k in range(12)])
    made.index.mkdir()
    made.data.mkdir()
    return made


def split_index(tiny_set: Any, roots: Roots) -> None:
    shutil.copytree(tiny_set.data_root, roots.data, dirs_exist_ok=True)
    lines = tiny_set.index_file.read_text().splitlines(keepends=True)
    for number, (start, end) in enumerate([(0, 5), (5, 6), (6, 12)]):
        (roots.index / f"set_{number:03d}.txt").write_text("".join(lines[start:end]))


def tab_index(tiny_set: Any, roots: Roots) -> None:
    shutil.copytree(tiny_set.data_root, roots.data, dirs_exist_ok=True)
    lines = tiny_set.index_file.read_text().splitlines()
    (roots.index / "set.txt").write_text("".join("\t".join(line.rsplit(" ", 1)) + "\n" for line in lines))


def tface(tiny_set: Any, roots: Roots) -> None:
    rf.write_tface(roots.data, roots.index / "set.txt", "TFR-tiny", roots.images, LABELS, shard_size=5)


def labelled_shards(tiny_set: Any, roots: Roots) -> None:
    (roots.data / "set").mkdir()
    for shard, (start, end) in enumerate([(0, 7), (7, 12)]):
        records = [
            rf.tfrecord(rf.example({"width": 112.0, "label": LABELS[k], "image": roots.images[k], "index": k}))
            for k in range(start, end)
        ]
        (roots.data / "set" / f"part-{shard}.tfrecord").write_bytes(b"".join(records))


def insightface(tiny_set: Any, roots: Roots) -> None:
    rf.insightface_set(roots.images, LABELS).write(roots.data / "set" / "train.rec")
    (roots.data / "set" / "property").write_text("3,112,112")
    (roots.data / "set" / "lfw" / "meta").mkdir(parents=True)  # the packages bring validation sets in folders


def im2rec(tiny_set: Any, roots: Roots) -> None:
    rf.plain_set(roots.images, LABELS).write(roots.data / "set.rec")


def folders(tiny_set: Any, roots: Roots) -> None:
    shutil.copytree(tiny_set.data_root, roots.data / "set")
    (roots.data / "set" / ".cache").mkdir()
    (roots.data / "set" / "list.txt").write_text("no image")
    (roots.data / "set" / "id 0" / "notes.txt").write_text("no image")


FORMS = [split_index, tab_index, tface, labelled_shards, insightface, im2rec, folders]


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_samples_of_the_index(
    tiny_set: Any, roots: Roots, form: Callable[[Any, Roots], None]
) -> None:
    form(tiny_set, roots)
    index = read_index(roots.index, roots.data, "set")
    assert len(index) == 12 and index.num_classes == 3 and index.labels.dtype == np.int64
    assert index.labels.tolist() == LABELS
    reference = read_index(tiny_set.index_root, tiny_set.data_root, tiny_set.name)
    sampler = RandomObfuscation({"gaussian": 1.0, "pixelate": 1.0})
    one, other = TrainingSet([index], sampler, seed=3), TrainingSet([reference], sampler, seed=3)
    for position in range(12):
        image = cv2.imdecode(np.frombuffer(roots.images[position], np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
        np.testing.assert_array_equal(index.read(position), image)
        key = SampleKey(0, 1, position, position)
        assert all(torch.equal(a, b) for a, b in zip(one[key], other[key], strict=True))


@pytest.mark.parametrize("form", FORMS)
def test_every_form_survives_a_copy_to_another_process(
    tiny_set: Any, roots: Roots, form: Callable[[Any, Roots], None]
) -> None:
    """Workers that are not forked get the set by pickle, also after it was read from."""
    form(tiny_set, roots)
    index = read_index(roots.index, roots.data, "set")
    before = index.read(7)
    copy: Index = pickle.loads(pickle.dumps(index))
    np.testing.assert_array_equal(copy.read(7), before)
    assert copy.describe(7) == index.describe(7)
    assert pickle.loads(pickle.dumps(index.source(7)))() == roots.images[7]


@pytest.mark.parametrize("form", [tface, insightface])
def test_forked_workers_read_records_as_the_parent_does(
    tiny_set: Any, roots: Roots, form: Callable[[Any, Roots], None]
) -> None:
    form(tiny_set, roots)
    index = read_index(roots.index, roots.data, "set")
    index.read(0)  # the file is open before the workers are forked
    training_set = TrainingSet([index], RandomObfuscation({"pixelate": 1.0}), seed=1)
    batches = [
        list(make_loader(training_set, n, torch.device("cpu"), batch_sampler=BranchBatchSampler([12], [2], 0)))
        for n in (0, 2)
    ]
    for one, other in zip(*batches, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


DESCRIPTIONS: dict[Callable[[Any, Roots], None], str] = {
    split_index: "{index}/set_002.txt, line 2: {data}/id 1/3.jpg",
    tface: "{index}/set.txt, line 8: {data}/TFR-tiny/TFR-tiny-00001.tfrecord at byte {offset}",
    labelled_shards: "{data}/set/part-1.tfrecord at byte 0",
    insightface: "{data}/set/train.rec at byte {offset}",
    im2rec: "{data}/set.rec at byte {offset}",
    folders: "{data}/set/id 1/3.jpg",
}


@pytest.mark.parametrize("form", DESCRIPTIONS)
def test_images_are_called_by_file_and_place(tiny_set: Any, roots: Roots, form: Callable[[Any, Roots], None]) -> None:
    form(tiny_set, roots)
    sizes = {
        tface: [len(rf.tfrecord(rf.example({"image": image}))) for image in roots.images[5:7]],
        insightface: [len(rf.recordio(rf.with_header([0.0, 1.0], 0, image))) for image in roots.images[:7]],
        im2rec: [len(rf.recordio(rf.with_header(0.0, 0, image))) for image in roots.images[:7]],
    }
    expected = DESCRIPTIONS[form].format(index=roots.index, data=roots.data, offset=sum(sizes.get(form, [])))
    assert read_index(roots.index, roots.data, "set").describe(7) == expected


# Which form a name is


def test_the_index_of_records_or_folders_decides_what_of_them_is_used(tiny_set: Any, roots: Roots) -> None:
    labelled_shards(tiny_set, roots)
    shutil.copytree(tiny_set.data_root, roots.data / "set", dirs_exist_ok=True)
    (roots.index / "set.txt").write_text("set/id 2/0.jpg 0\nset/id 1/1.jpg 1\n")
    index = read_index(roots.index, roots.data, "set")
    assert len(index) == 2 and index.file == roots.index / "set.txt"
    (roots.index / "set.txt").unlink()
    assert read_index(roots.index, roots.data, "set").file == roots.data / "set" / "part-0.tfrecord"


AMBIGUOUS: list[tuple[list[Callable[[Any, Roots], None]], list[str]]] = [
    ([tab_index, split_index], ["set.txt", "set_000.txt"]),
    ([tab_index, insightface], ["set.txt", "set/train.rec"]),
    ([insightface, im2rec], ["set/train.rec", "set.rec"]),
    ([im2rec, labelled_shards], ["set.rec", "set/part-0.tfrecord"]),
]


@pytest.mark.parametrize(("forms", "names"), AMBIGUOUS)
def test_two_forms_of_a_name_are_refused(
    tiny_set: Any, roots: Roots, forms: list[Callable[[Any, Roots], None]], names: list[str]
) -> None:
    for form in forms:
        form(tiny_set, roots)
    with pytest.raises(ValueError, match="'set' is there in several forms") as error:
        read_index(roots.index, roots.data, "set")
    assert all(name in str(error.value) for name in names)


def test_nothing_there_tells_all_that_was_looked_for(roots: Roots) -> None:
    (roots.data / "set").mkdir()
    (roots.data / "set" / "a.jpg").touch()
    with pytest.raises(FileNotFoundError) as error:
        read_index(roots.index, roots.data, "set")
    for part in (
        f"{roots.index}/set.txt", "set_000.txt", f"INDEX_ROOT = {roots.index}", f"{roots.data}/set/train.rec",
        f"{roots.data}/set.rec", f"{roots.data}/set/*.tfrecord", f"{roots.data}/set/PERSON/", "DATASETS",
        f"DATA_ROOT = {roots.data}", "Data/README.md",
    ):  # fmt: skip
        assert part in str(error.value)


def test_other_sets_whose_names_begin_alike_do_not_matter(tiny_set: Any, roots: Roots) -> None:
    tab_index(tiny_set, roots)
    for name in ("set_2.txt", "set_valid.txt", "set_000.txt.bak", "reset_000.txt", "set_000_pairs.txt"):
        (roots.index / name).write_text("other 0\n")
    assert len(read_index(roots.index, roots.data, "set")) == 12


def test_people_are_numbered_in_order_of_their_names(tiny_set: Any, roots: Roots) -> None:
    for person in ("b", "a10", "a9", "\u00e4", "B"):
        (roots.data / "set" / person / "deep").mkdir(parents=True)
        for name in ("2.PNG", "10.jpg", "deep/1.webp", ".hidden.jpg", "list.txt"):
            (roots.data / "set" / person / name).touch()
    index: Any = read_index(roots.index, roots.data, "set")
    people = ["B", "a10", "a9", "b", "\u00e4"]
    assert list(index.paths) == [f"{person}/{name}" for person in people for name in ("10.jpg", "2.PNG", "deep/1.webp")]
    assert index.labels.tolist() == np.repeat(np.arange(5), 3).tolist()


def test_names_need_not_be_utf_8() -> None:
    packer = StringPacker()
    for text in ("", "a", "\udcff.jpg", "\u4e2d", ""):
        packer.append(text)
    strings = packer.pack()
    assert list(strings) == ["", "a", "\udcff.jpg", "\u4e2d", ""] and len(strings) == 5
    for position in (-1, 5):
        with pytest.raises(IndexError):
            strings[position]


# TFRecord


@given(st.lists(st.binary(max_size=70), min_size=1, max_size=5))
def test_tfrecord_framing(payloads: list[bytes]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.tfrecord"
        path.write_bytes(b"".join(map(rf.tfrecord, payloads)))
        file, offset = RecordFile(path), 0
        for payload in payloads:
            assert tfrecord_module.read_record(file, offset, "x") == payload
            offset += 16 + len(payload)


def test_checksum_is_that_of_rfc_3720() -> None:
    assert rf.crc32c(bytes(32)) == 0x8A9136AA and rf.crc32c(b"123456789") == 0xE3069283
    for data in (b"", bytes(32), b"123456789"):
        assert struct.pack("<I", tfrecord_module.masked_crc(data)) == rf.masked(data)


def test_what_tensorboard_writes_is_read(tmp_path: Path) -> None:
    from tensorboard.summary.writer.record_writer import RecordWriter

    with (tmp_path / "x.tfrecord").open("wb") as file:
        writer = RecordWriter(file)
        writer.write(b"first")
        writer.write(b"second")
        writer.flush()
    assert tfrecord_module.read_record(RecordFile(tmp_path / "x.tfrecord"), 16 + 5, "x") == b"second"


names = st.text("abel\u00e4\u4e2d", max_size=5)
values = st.one_of(st.binary(max_size=300), st.integers(-(2**63), 2**63 - 1), st.floats(width=32))


@given(st.dictionaries(names, values, max_size=5), st.binary(max_size=300), st.integers(-(2**63), 2**63 - 1))
def test_examples_are_read(features: dict[str, bytes | int | float], image: bytes, label: int) -> None:
    data = rf.example({**features, "image": image, "label": label})
    assert bytes_feature(data, "image") == image and int64_feature(data, "label") == label


def test_what_protobuf_writes_is_read() -> None:
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    file = descriptor_pb2.FileDescriptorProto(name="example.proto", package="t", syntax="proto3")
    kinds = descriptor_pb2.FieldDescriptorProto

    def add(parent: Any, name: str, *fields: tuple[str, int, Any, str]) -> Any:
        made = parent.add(name=name)
        for field, number, kind, of in fields:
            label = kinds.LABEL_REPEATED if field in ("value", "feature") and name != "Entry" else kinds.LABEL_OPTIONAL
            type_name = f".t.{of}" if of else None
            made.field.add(name=field, number=number, type=kind, label=label, type_name=type_name)
        return made

    add(file.message_type, "BytesList", ("value", 1, kinds.TYPE_BYTES, ""))
    add(file.message_type, "Int64List", ("value", 1, kinds.TYPE_INT64, ""))
    lists = [("b", 1, kinds.TYPE_MESSAGE, "BytesList"), ("i", 3, kinds.TYPE_MESSAGE, "Int64List")]
    add(file.message_type, "Feature", *lists)
    entry = [("key", 1, kinds.TYPE_STRING, ""), ("value", 2, kinds.TYPE_MESSAGE, "Feature")]
    add(file.message_type, "Entry", *entry)
    add(file.message_type, "Features", ("feature", 1, kinds.TYPE_MESSAGE, "Entry"))
    add(file.message_type, "Example", ("features", 1, kinds.TYPE_MESSAGE, "Features"))
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    made = message_factory.GetMessageClass(pool.FindMessageTypeByName("t.Example"))()
    one, other = made.features.feature.add(key="label"), made.features.feature.add(key="image")
    one.value.i.value.append(-5)
    other.value.b.value.append(b"\xff\xd8 an image")
    data = made.SerializeToString()
    assert int64_feature(data, "label") == -5 and bytes_feature(data, "image") == b"\xff\xd8 an image"


def test_fields_of_other_kinds_are_passed_over() -> None:
    unknown = rf.varint(9 * 8) + rf.varint(77) + rf.varint(10 * 8 + 1) + bytes(8) + rf.varint(11 * 8 + 5) + bytes(4)
    feature = rf.message(3, unknown + rf.varint(1 * 8) + rf.varint(12))  # not packed, as proto2 writes it
    entry = unknown + rf.message(1, b"label") + rf.message(2, feature)
    data = unknown + rf.message(1, unknown + rf.message(1, entry)) + unknown
    assert int64_feature(data, "label") == 12


def test_more_shards_than_may_be_open(roots: Roots) -> None:
    count = OPEN_FILES + 3
    images, labels = [roots.images[k % 12] for k in range(count)], list(range(count))
    rf.write_tface(roots.data, roots.index / "set.txt", "many", images, labels, shard_size=1)
    index = read_index(roots.index, roots.data, "set")
    before = len(list(Path("/proc/self/fd").iterdir())) if Path("/proc/self/fd").is_dir() else 0
    for position in (*range(count), 0, count - 1):
        assert index.source(position)() == images[position]
    if before:
        assert len(list(Path("/proc/self/fd").iterdir())) <= before + OPEN_FILES


# RecordIO

words = st.sampled_from([rf.MAGIC, b"abcd", b"\0\0\0\0", rf.MAGIC[1:] + b"x"])
payloads = st.tuples(st.lists(words, max_size=8), st.binary(max_size=3)).map(lambda both: b"".join(both[0]) + both[1])


@given(st.lists(payloads, min_size=1, max_size=5))
def test_recordio_framing(contents: list[bytes]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.rec"
        records = list(map(rf.recordio, contents))
        path.write_bytes(b"".join(records))
        file, offset = RecordFile(path), 0
        for content, record in zip(contents, records, strict=True):
            assert recordio_module.read_record(file, offset, "x") == content
            offset += len(record)


def test_image_that_contains_the_magic(roots: Roots) -> None:
    """Put into a JPEG as a comment, at a multiple of four bytes of the record; the first part then ends there."""
    images = list(roots.images)
    comment = b"\xff\xfe" + struct.pack(">H", 2 + 2 + 8) + b"xx" + rf.MAGIC * 2
    images[3] = images[3][:2] + comment + images[3][2:]  # 24 bytes of header, 8 of the JPEG
    made = rf.plain_set(images, LABELS)
    assert [struct.unpack_from("<I", made.records[3], at)[0] >> 29 for at in (4, 4 + 8 + 32)] == [1, 2]
    made.write(roots.data / "set.rec")
    index = read_index(roots.index, roots.data, "set")
    assert index.labels.tolist() == LABELS and index.source(3)() == images[3]


def test_magic_within_the_head_of_a_record(roots: Roots) -> None:
    """The second label looks like the magic: the first part ends before the image."""
    (magic_as_float,) = struct.unpack("<f", rf.MAGIC)
    made = rf.plain_set(roots.images, LABELS)
    payload = rf.with_header([float(LABELS[5]), magic_as_float], 5, roots.images[5])
    made.records[5] = rf.recordio(payload)
    assert struct.unpack_from("<I", made.records[5], 4)[0] == 1 << 29 | 28
    made.write(roots.data / "set.rec")
    index = read_index(roots.index, roots.data, "set")
    assert index.labels.tolist() == LABELS and index.source(5)() == roots.images[5]


def test_records_in_any_order_and_keys_with_gaps(roots: Roots) -> None:
    """Subsets have keys that do not follow each other; threads of im2rec write in any order."""
    made = rf.plain_set(roots.images, LABELS)
    order = [3, 0, 11, 5, 7, 9]
    offsets = rf.RecordSet({key * 10: made.records[key] for key in order}).write(roots.data / "set.rec")
    lines = (roots.data / "set.idx").read_text().splitlines()
    (roots.data / "set.idx").write_text("\n".join(reversed(lines)) + "\n")
    index = read_index(roots.index, roots.data, "set")
    assert index.labels.tolist() == [LABELS[key] for key in order]
    assert [index.source(k)() for k in range(6)] == [roots.images[key] for key in order]
    assert index.describe(2).endswith(f"at byte {offsets[110]}")


def test_heads_are_scanned_piece_by_piece(tiny_set: Any, roots: Roots, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recordio_module, "SCAN_ROWS", 5)
    insightface(tiny_set, roots)
    assert read_index(roots.index, roots.data, "set").labels.tolist() == LABELS
    data = bytearray((roots.data / "set" / "train.rec").read_bytes())
    offset = sum(len(rf.recordio(rf.with_header([0.0, 1.0], 0, image))) for image in roots.images[:8])
    data[offset] ^= 1
    (roots.data / "set" / "train.rec").write_bytes(data)
    with pytest.raises(ValueError, match=rf"line 9: .*train\.rec at byte {offset}: no record begins here"):
        read_index(roots.index, roots.data, "set")


def test_number_of_images_that_float32_rounds(roots: Roots, monkeypatch: pytest.MonkeyPatch) -> None:
    """Record 0 holds float32 numbers: with 2^24 + 1 as the end of the images it says 2^24, and that is accepted."""
    made = rf.plain_set(roots.images, LABELS)
    end = 2**24 + 1
    records = {end - 12 + k: made.records[k] for k in range(12)}
    records[0] = rf.recordio(rf.with_header([float(end), float(end + 1)], 0, b""))
    records[end] = rf.recordio(rf.with_header([1.0, 13.0], end, b""))
    assert np.float32(end) == 2**24
    rf.RecordSet(records).write(roots.data / "set.rec")
    assert len(read_index(roots.index, roots.data, "set")) == 12


# verify


def run_verify(*arguments: object) -> int:
    try:
        prepare_data(["verify", "--jobs", "1", *map(str, arguments)])
    except SystemExit as stop:
        assert isinstance(stop.code, int)
        return stop.code
    return 0


@pytest.mark.parametrize("form", [tface, labelled_shards, insightface, im2rec, folders])
def test_verify_reads_every_form(
    tiny_set: Any, roots: Roots, form: Callable[[Any, Roots], None], capsys: pytest.CaptureFixture[str]
) -> None:
    form(tiny_set, roots)
    given = ["--data", roots.data / "set"]
    if form is tface:
        given = ["--index", roots.index / "set.txt", "--root", roots.data]
    assert run_verify(*given) == 0
    assert capsys.readouterr().out == "0 problems, 0 notes\n"


def test_verify_finds_what_is_wrong_with_records(roots: Roots, capsys: pytest.CaptureFixture[str]) -> None:
    images = list(roots.images)
    images[2], images[6], images[9] = images[2][:-9], b"no image", images[0]
    offsets = list(rf.plain_set(images, LABELS).write(roots.data / "set.rec").values())
    assert run_verify("--data", roots.data / "set") == 1
    out = capsys.readouterr().out.splitlines()
    rec = roots.data / "set.rec"
    assert out[0].startswith(f"wrong: {rec} at byte {offsets[2]} is cut off")
    assert out[1].startswith(f"wrong: {rec} at byte {offsets[6]} cannot be decoded as an image")
    assert out[2] == (
        f"wrong: {rec} at byte {offsets[9]} is the same image as {rec} at byte 0, with the label 2 and not 0"
    )
    assert out[3:] == ["3 problems, 0 notes"]


def test_verify_without_the_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_verify("--data", tmp_path / "gone") == 1
    assert "wrong: no training set 'gone'" in capsys.readouterr().out
