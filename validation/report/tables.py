"""A table of text cells, aligned for a terminal or written as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Table:
    """Cells that are ready to show.

    Attributes:
        columns: names of the columns.
        body: lines of as many cells each.
        text_columns: number of columns, from the left, that hold text; the others hold numbers and are right-aligned.
    """

    columns: Sequence[str]
    body: Sequence[Sequence[str]]
    text_columns: int

    def text(self) -> str:
        """For a terminal: columns padded to equal width, a rule under their names."""
        lines = [self.columns, *self.body]
        widths = [max(len(line[column]) for line in lines) for column in range(len(self.columns))]
        rule = ["-" * width for width in widths]
        return "".join(self._padded(line, widths) + "\n" for line in (self.columns, rule, *self.body))

    def markdown(self) -> str:
        rule = ["---" if column < self.text_columns else "---:" for column in range(len(self.columns))]
        columns, *body = [[cell.replace("|", "\\|") for cell in line] for line in (self.columns, *self.body)]
        return "".join(f"| {' | '.join(line)} |\n" for line in (columns, rule, *body))

    def _padded(self, line: Sequence[str], widths: Sequence[int]) -> str:
        return "  ".join(
            cell.ljust(width) if column < self.text_columns else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
