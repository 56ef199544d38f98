"""Training sets in all supported forms; `read_index` finds a set by its name.

| looked for | form |
|---|---|
| `INDEX_ROOT/NAME.txt` | index: a line `path label` an image, or TFace's index of TFRecord files |
| `INDEX_ROOT/NAME_000.txt`, `NAME_001.txt`, ... | one index in several files |
| `DATA_ROOT/NAME/train.rec` or `DATA_ROOT/NAME.rec` | MXNet's RecordIO with its .idx (InsightFace) |
| `DATA_ROOT/NAME/*.tfrecord` | TFRecord files whose records have labels |
| `DATA_ROOT/NAME/PERSON/` | images in a folder for each person |

An index names its images: TFRecord files and folders of the same name belong to it. Folders beside train.rec are
InsightFace's validation sets, and folders beside TFRecord files are ignored too. Any other two forms of one name are an
error, since they are ambiguous. Nothing in a file is executed.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

from torchkit.data.index.base import ImageIndex, Index, RecordIndex, missing_labels
from torchkit.data.index.folder import find_people, read_identity_folders
from torchkit.data.index.recordio import read_recordio
from torchkit.data.index.text_file import lists_records, parse_line, read_text_index, write_index
from torchkit.data.index.tfrecord import find_shards, read_tfrecord_folder

__all__ = [
    "ImageIndex",
    "Index",
    "RecordIndex",
    "lists_records",
    "missing_labels",
    "parse_line",
    "read_index",
    "read_records_or_folders",
    "read_text_index",
    "write_index",
]  # fmt: skip

REC_NAME, PROPERTY_NAME = "train.rec", "property"
Form = tuple[Path, Callable[[], Index]]
"""A file or folder of the set, and the function that reads it."""


def read_index(index_root: Path, data_root: Path, name: str) -> Index:
    """Read the training set `name` in whichever form exists.

    Raises:
        FileNotFoundError: the set exists in no form, or lacks a folder or file.
        ValueError: the set exists in two forms, or a file does not have the content of its form.
    """
    looked_for = f"{index_root / name}.txt or {name}_000.txt and so on (an index; INDEX_ROOT = {index_root})"
    forms = _texts(index_root, data_root, name) + _records(data_root, name)
    return _read_only_form(forms, data_root, name, looked_for)


def read_records_or_folders(data_root: Path, name: str) -> Index:
    """Read a set that has no index, like `read_index`."""
    return _read_only_form(_records(data_root, name), data_root, name)


def _read_only_form(forms: list[Form], data_root: Path, name: str, *looked_for: str) -> Index:
    folder = data_root / name
    shards = [] if any(path.suffix == ".txt" for path, _ in forms) else find_shards(folder)
    if shards:
        forms = [*forms, (shards[0], partial(read_tfrecord_folder, folder))]
    if not forms and find_people(folder):
        forms = [(folder, partial(read_identity_folders, folder))]
    if len(forms) > 1:
        raise ValueError(
            f"training set {name!r} is there in several forms: {' and '.join(str(path) for path, _ in forms)}; "
            "keep one of them"
        )
    if not forms:
        looked = [*looked_for, f"{folder / REC_NAME} or {folder}.rec (RecordIO)"]
        raise FileNotFoundError(
            f"no training set {name!r} (a name of DATASETS): looked for {', '.join(looked)}, {folder}/*.tfrecord and "
            f"{folder}/PERSON/ (a folder for each person; DATA_ROOT = {data_root}); put it where one of these is, as "
            "Data/README.md shows, or change these keys"
        )
    return forms[0][1]()


def _texts(index_root: Path, data_root: Path, name: str) -> list[Form]:
    forms: list[Form] = []
    whole = index_root / f"{name}.txt"
    if whole.is_file():
        forms.append((whole, partial(read_text_index, [whole], data_root)))
    parts = _parts(index_root, name)
    expected = [f"{name}_{number:03d}.txt" for number in range(len(parts))]
    for part, file_name in zip(parts, expected, strict=True):
        if part.name != file_name and not whole.is_file():
            raise FileNotFoundError(
                f"{index_root / file_name} is missing, though {part} is there; the index {name!r} needs all its files, "
                "numbered from 000 without gaps"
            )
    if parts:
        forms.append((parts[0], partial(read_text_index, parts, data_root)))
    return forms


def _parts(index_root: Path, name: str) -> list[Path]:
    if not index_root.is_dir():
        return []
    form = re.compile(rf"{re.escape(name)}_([0-9]{{3,9}})\.txt")
    part_files = {int(match[1]): path for path in index_root.iterdir() if (match := form.fullmatch(path.name))}
    return [part_files[number] for number in sorted(part_files)]


def _records(data_root: Path, name: str) -> list[Form]:
    inside, beside = data_root / name / REC_NAME, data_root / f"{name}.rec"
    forms: list[Form] = []
    if inside.is_file():
        forms.append((inside, partial(read_recordio, inside, inside.with_name(PROPERTY_NAME))))
    if beside.is_file():
        forms.append((beside, partial(read_recordio, beside)))
    return forms
