"""Atomic writing: the target holds the old or the new content, and no temporary name stays behind."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from torchkit.util import files


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def fail_to_replace(*_: object) -> None:
    raise OSError("no space left")


def test_bytes_are_written_and_replace_old_ones(tmp_path: Path) -> None:
    target = tmp_path / "new" / "a.bin"
    files.atomic_write_bytes(target, b"one")
    files.atomic_write_bytes(target, b"\x00two")
    assert target.read_bytes() == b"\x00two"
    assert names(target.parent) == ["a.bin"]


def test_text_is_utf8_with_its_own_line_ends(tmp_path: Path) -> None:
    files.atomic_write_text(tmp_path / "a.txt", "a\r\nb\u00e9\n")
    assert (tmp_path / "a.txt").read_bytes() == b"a\r\nb\xc3\xa9\n"


def test_new_file_has_ordinary_permissions(tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(b"")
    files.atomic_write_bytes(tmp_path / "atomic", b"")
    assert (tmp_path / "atomic").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "a.bin"
    files.atomic_write_bytes(target, b"old")
    monkeypatch.setattr(Path, "replace", fail_to_replace)
    with pytest.raises(OSError, match="no space left"):
        files.atomic_write_bytes(target, b"new")
    assert target.read_bytes() == b"old"
    assert names(tmp_path) == ["a.bin"]


def test_content_is_synced_under_a_hidden_sibling_name_before_the_rename(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    real_sync, real_replace = os.fsync, Path.replace

    def sync(descriptor: int) -> None:
        events.append("sync")
        real_sync(descriptor)

    def replace(source: Path, target: Path) -> Path:
        assert source.parent == target.parent
        assert source.name.startswith(".")
        assert source.read_bytes() == b"data"
        events.append("replace")
        return real_replace(source, target)

    monkeypatch.setattr(files.os, "fsync", sync)
    monkeypatch.setattr(Path, "replace", replace)
    files.atomic_write_bytes(tmp_path / "a", b"data")
    assert events == ["sync", "replace"]


def test_folder_appears_complete_and_replaces_an_old_one(tmp_path: Path) -> None:
    target = tmp_path / "set"
    with files.atomic_folder(target) as folder:
        assert folder.parent == tmp_path
        assert folder.name.startswith(".")
        (folder / "old").write_text("1")
        assert not target.exists()
    with files.atomic_folder(target) as folder:
        (folder / "sub").mkdir()
        (folder / "sub" / "new").write_text("2")
        assert names(target) == ["old"]
    assert names(target) == ["sub"]
    assert (target / "sub" / "new").read_text() == "2"
    assert names(tmp_path) == ["set"]


def test_files_of_a_folder_are_synced_before_it_appears(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "set"
    synced: list[tuple[int, bool]] = []  # the file, and whether the folder was there already
    real_sync = os.fsync

    def sync(descriptor: int) -> None:
        synced.append((os.fstat(descriptor).st_ino, target.exists()))
        real_sync(descriptor)

    monkeypatch.setattr(files.os, "fsync", sync)
    with files.atomic_folder(target) as folder:
        (folder / "sub").mkdir()
        (folder / "a").write_text("1")
        (folder / "sub" / "b").write_text("2")
    written = [target / "a", target / "sub" / "b"]
    assert sorted(synced) == sorted((path.stat().st_ino, False) for path in written)


def test_folder_is_removed_when_its_block_fails(tmp_path: Path) -> None:
    target = tmp_path / "set"
    target.mkdir()
    (target / "old").write_text("1")
    with pytest.raises(RuntimeError, match="half way"), files.atomic_folder(target) as folder:
        (folder / "new").write_text("2")
        raise RuntimeError("half way")
    assert names(tmp_path) == ["set"]
    assert names(target) == ["old"]


def test_old_folder_is_put_back_when_a_rename_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "set"
    target.mkdir()
    (target / "old").write_text("1")
    real_replace = Path.replace

    def replace(source: Path, to: Path) -> Path:
        if (source / "new").exists():
            raise OSError("no space left")
        return real_replace(source, to)

    monkeypatch.setattr(Path, "replace", replace)
    with pytest.raises(OSError, match="no space left"), files.atomic_folder(target) as folder:
        (folder / "new").write_text("2")
    assert names(tmp_path) == ["set"]
    assert names(target) == ["old"]


def test_folder_over_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "set").write_text("a file")
    with pytest.raises(NotADirectoryError, match="is a file"), files.atomic_folder(tmp_path / "set"):
        pass
    assert names(tmp_path) == ["set"]
