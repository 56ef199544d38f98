"""What an index takes: so many bytes a line, and nothing more for each worker."""

from __future__ import annotations

import gc
import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torchkit.data.index import ImageIndex, RecordIndex, read_index

LINES = 1_000_000
SMAPS = Path("/proc/self/smaps_rollup")


def write_large_index(root: Path) -> ImageIndex:
    """An index of a million lines, a hundred a person."""
    with (root / "large.txt").open("w") as file:
        file.writelines(f"{k // 100:07d}/{k % 100:04d}.jpg {k // 100}\n" for k in range(LINES))
    index = read_index(root, root, "large")
    assert isinstance(index, ImageIndex)
    return index


def size_of(index: Any) -> int:
    """Bytes of everything that grows with the number of images."""
    if isinstance(index, RecordIndex):
        return index.labels.nbytes + index.offsets.nbytes + index.shards.nbytes
    return index.labels.nbytes + index.paths.data.nbytes + index.paths.ends.nbytes


def test_reading_takes_little_more_than_the_index(tmp_path: Path) -> None:
    """With fewer lines: tracemalloc slows Python down threefold."""
    lines = 100_000
    (tmp_path / "some.txt").write_text("".join(f"{k // 100:07d}/{k % 100:04d}.jpg {k // 100}\n" for k in range(lines)))
    (tmp_path / "warm.txt").write_text("a.jpg 0\n")
    read_index(tmp_path, tmp_path, "warm")  # loads what NumPy loads when it is first needed
    tracemalloc.start()
    try:
        index = read_index(tmp_path, tmp_path, "some")
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 1.15 * size_of(index)  # arrays that grow have some room left over
    assert peak < 2.2 * size_of(index)  # one block of lines as Python objects, and a copy of the labels, sorted


def test_a_record_takes_seventeen_bytes(tmp_path: Path) -> None:
    lines = 1_000
    (tmp_path / "TFR").mkdir()
    for shard in range(2):
        with (tmp_path / "TFR" / f"TFR-{shard:05d}.tfrecord").open("wb") as file:
            file.truncate(lines * 50_000_000)  # a hole: offsets do not fit into 32 bits
    offsets = [k * 49_999_999 for k in range(lines)]
    (tmp_path / "set.txt").write_text("".join(f"TFR\t{k % 2}\t{offset}\t{k}\n" for k, offset in enumerate(offsets)))
    index = read_index(tmp_path, tmp_path, "set")
    assert isinstance(index, RecordIndex) and size_of(index) == lines * (8 + 8 + 1)
    assert index.offsets.tolist() == offsets and index.shards.tolist() == [k % 2 for k in range(lines)]


def private_dirty_bytes() -> int:
    """Memory of this process that no other shares: what a forked worker has copied, and what it has made."""
    for line in SMAPS.read_text().splitlines():
        if line.startswith("Private_Dirty:"):
            return 1024 * int(line.split()[1])
    raise AssertionError(f"{SMAPS} has no Private_Dirty")


def growth_in_a_fork(touch: Callable[[int], object]) -> int:
    """Bytes of memory of its own that a forked process gains by touching so many lines."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        gc.disable()  # a collection looks at all objects of the parent
        touch(1)  # and so does the first use of a function: count what follows
        before = private_dirty_bytes()
        touch(LINES)
        os.write(writer, str(private_dirty_bytes() - before).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        answer = pipe.read()
    os.waitpid(child, 0)
    return int(answer)


def test_a_line_takes_its_path_and_sixteen_bytes_which_forked_workers_share(tmp_path: Path) -> None:
    index = write_large_index(tmp_path)
    assert len(index) == LINES and index.num_classes == LINES // 100
    assert size_of(index) == LINES * (len("0000000/0000.jpg") + 8 + 8)
    for position in (0, 1234, LINES - 1):
        path = f"{position // 100:07d}/{position % 100:04d}.jpg"
        assert index.describe(position) == f"{index.file}, line {position + 1}: {tmp_path}/{path}"
        assert index.labels[position] == position // 100
    if SMAPS.exists():
        check_nothing_is_copied(index)


def check_nothing_is_copied(index: ImageIndex) -> None:
    def touch_index(lines: int) -> None:
        for array in (index.labels, index.paths.data, index.paths.ends):
            assert int(array[:lines].max()) >= 0
        for position in range(0, lines, 50):  # each page of every array several times
            assert index.describe(position) and int(index.labels[position]) >= 0
            index.source(position)

    # Paths intern the names of folders and files: Python's table of such strings, a few MB, changes with any path.
    assert growth_in_a_fork(touch_index) < size_of(index) / 4

    strings = [f"{k // 100:07d}/{k % 100:04d}.jpg" for k in range(LINES // 2)]
    assert growth_in_a_fork(lambda lines: max(strings[:lines])) > size_of(index) / 2, "the measure sees what lists cost"
