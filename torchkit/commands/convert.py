"""Convert a file, or all files of a folder: existing targets are kept, broken sources are named and skipped."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from tqdm import tqdm

from torchkit.data.problems import attempt
from torchkit.util.cli import CommandParser
from torchkit.util.files import atomic_write_bytes

T = TypeVar("T")
MESSAGE_SUFFIX = ".pfc"


@dataclass(frozen=True)
class Conversion:
    """A source file and its target."""

    source: Path
    target: Path


def add_batch_arguments(parser: CommandParser) -> None:
    """Add the options of every command that runs a network on files."""
    parser.option("batch-size", help="files worked on at once")
    parser.option("device")
    parser.switch("overwrite", help="make files again that are there already")


def find_conversions(source: Path, target: Path, extensions: Sequence[str], suffix: str) -> list[Conversion]:
    """List the conversions from `source` to `target`.

    Args:
        source: a file, whatever its name, or a folder, which is searched with all folders in it.
        target: the file to write, or the folder that gets the same tree.
        extensions: of the files to convert, in lower case; hidden files and folders are skipped.
        suffix: of the files to write.

    Raises:
        FileNotFoundError: no such source.
        ValueError: nothing to convert, a file where a folder must be or the reverse, or two files that would become
            the same.
    """
    if not source.exists():
        raise FileNotFoundError(f"{source} not found; give a file or a folder")
    if source.is_file():
        if target.is_dir():
            raise ValueError(f"--out {target} is a folder, but {source} is a single file; name a file")
        if target.resolve() == source.resolve():
            raise ValueError(f"--out {target} is the file that is to be read; name another")
        return [Conversion(source, target)]
    if target.exists() and not target.is_dir():
        raise ValueError(f"--out {target} is a file, but {source} is a folder; name a folder")
    files = [path for path in sorted(source.rglob("*")) if path.suffix.lower() in extensions and path.is_file()]
    paths = [path.relative_to(source) for path in files]
    paths = [path for path in paths if not any(part.startswith(".") for part in path.parts)]
    if not paths:
        raise ValueError(f"{source} holds no file that ends with {', '.join(extensions)}")
    conversions = [Conversion(source / path, target / path.with_suffix(suffix)) for path in paths]
    _check_distinct(conversions)
    return conversions


def convert_files(
    conversions: Sequence[Conversion],
    read: Callable[[Path], T],
    work: Callable[[list[T]], Sequence[bytes]],
    batch_size: int,
    overwrite: bool,
) -> str:
    """Convert files in batches; a stopped run continues where it stopped.

    Args:
        conversions: what to convert.
        read: reads a source; its ValueError and OSError concern that file alone.
        work: contents of the targets for what `read` gave, in order.
        batch_size: files worked on at once.
        overwrite: convert also where the target exists.

    Returns:
        A summary to print.

    Raises:
        ValueError: some files could not be used; raised after all others were written.
        whatever `read` raises if there is just one file, and `work` at any time.
    """
    todo = [conversion for conversion in conversions if overwrite or not conversion.target.exists()]
    broken: list[Exception] = []

    def note(error: Exception) -> None:
        broken.append(error)
        if len(conversions) > 1:
            tqdm.write(f"error: {error}", file=sys.stderr)

    with tqdm(total=len(todo), unit=" files", dynamic_ncols=True) as bar:
        for start in range(0, len(todo), batch_size):
            batch = todo[start : start + batch_size]
            attempts = [(each.target, attempt(note, partial(read, each.source))) for each in batch]
            items = {target: item for target, item in attempts if item is not None}
            contents = work(list(items.values())) if items else []
            for target, data in zip(items, contents, strict=True):
                atomic_write_bytes(target, data)
            bar.update(len(batch))
    if len(broken) == len(conversions) == 1:
        raise broken[0]
    done = f"{len(todo) - len(broken)} written, {len(conversions) - len(todo)} were there already"
    if broken:
        raise ValueError(f"{len(broken)} of {len(conversions)} files could not be used, see above; {done}")
    return done


def _check_distinct(conversions: Sequence[Conversion]) -> None:
    first: dict[Path, Path] = {}
    for conversion in conversions:
        other = first.setdefault(conversion.target, conversion.source)
        if other != conversion.source:
            raise ValueError(
                f"{other} and {conversion.source} would both become {conversion.target}; rename one of them"
            )
