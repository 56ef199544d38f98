"""This project's own files: weight files that state their format, their version and the program that wrote them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torchkit import __version__
from torchkit.util.weights import load_weights_file, save_weights_file


@dataclass(frozen=True)
class Container:
    """A kind of file of this project."""

    name: str
    """Its name in messages, e.g. "client file"."""
    format: str
    """The format that its files state."""
    version: int = 1
    """The version that is written, and the only one that is read."""

    def write(self, path: Path, contents: Mapping[str, Any]) -> None:
        """Write a file, whole or not at all; equal contents give equal bytes."""
        header = {"format": self.format, "version": self.version, "written_by": f"torchkit {__version__}"}
        save_weights_file(path, {**header, **contents})

    def is_format_of(self, contents: Any) -> bool:
        """Whether the contents of a weight file are of this kind."""
        return isinstance(contents, dict) and contents.get("format") == self.format

    def read(self, path: Path, remedy: str) -> dict[str, Any]:
        """Read a file that must be of this kind.

        Args:
            path: the file.
            remedy: which command writes such files, for messages.

        Raises:
            FileNotFoundError: no such file.
            ValueError: torn, of another kind or of another version.
        """
        contents = load_weights_file(path, self.name)
        if not self.is_format_of(contents):
            raise ValueError(f"{path} is no {self.name}; {remedy}")
        self.check_version(contents, path)
        return contents

    def check_version(self, contents: Mapping[str, Any], path: Path) -> None:
        """Raises ValueError: the file is of another version than this program reads."""
        if contents.get("version") != self.version:
            raise ValueError(
                f"{path} has version {contents.get('version')}; this program reads version {self.version}: write it "
                "again, or read it with the program that its entry written_by names"
            )

    @contextmanager
    def parsing(self, path: Path) -> Iterator[None]:
        """Report errors while entries are read as a damaged file.

        Raises:
            ValueError: instead of the error that a missing or wrong entry caused.
        """
        try:
            yield
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} is a {self.name}, but damaged: {error!r}; get it or write it again") from error
