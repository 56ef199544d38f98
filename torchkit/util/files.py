"""Write files so that a reader never sees an incomplete one.

Data are written to a hidden temporary file in the target's own folder (a rename is atomic only within one file system),
synced to the disk, and renamed over the target.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path


def atomic_write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Write `data` to `path`: whatever happens, the file holds its old or its new content, never a part.

    Missing parent folders are created. The file gets the permissions of any new file (the umask's).
    """
    path = Path(path)
    temporary = _temporary_sibling(path)
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def atomic_write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write `text` to `path` as UTF-8, line ends as they are; otherwise like `atomic_write_bytes`."""
    atomic_write_bytes(path, text.encode("utf-8"))


@contextlib.contextmanager
def atomic_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield an empty folder beside `path`; on success it becomes `path`, on an error it is removed.

    What was at `path` is kept until the new folder is complete. No call swaps two folders portably in one
    step: an existing folder is moved aside first, and put back if the second rename fails.

    Raises:
        NotADirectoryError: `path` exists and is not a folder.
    """
    path = Path(path)
    if path.exists() and not path.is_dir():
        raise NotADirectoryError(f"{path} is a file, expected a folder or nothing: remove it or name another")
    temporary = _temporary_sibling(path)
    temporary.mkdir()
    try:
        yield temporary
        _sync_files(temporary)
        _replace_folder(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _temporary_sibling(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.parent / f".{path.name}.{uuid.uuid4().hex}"


def _sync_files(folder: Path) -> None:
    for file_path in folder.rglob("*"):
        if file_path.is_file():
            with file_path.open("rb+") as file:  # Windows refuses to sync a file that was opened for reading
                os.fsync(file.fileno())


def _replace_folder(source: Path, target: Path) -> None:
    if not target.exists():
        source.replace(target)
        return
    aside = _temporary_sibling(target)
    target.replace(aside)
    try:
        source.replace(target)
    except BaseException:
        aside.replace(target)
        raise
    shutil.rmtree(aside)
