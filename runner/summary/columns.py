"""The columns of a table, and how they fit into the width of a terminal: words are cut, numbers never."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from rich.cells import cell_len

from runner.config.text import shortened

FITS = ((2, 40), (2, 24), (2, 12), (1, 12), (0, 12), (0, 6))  # ranks that are shown, and characters of a key
WIDEST_TITLE = 16  # of a number


class Column(NamedTuple):
    """One column: a swept key, the metric that is shown (rank 0), or a number that goes before those of lower rank."""

    title: str
    cells: list[str]
    rank: int
    is_number: bool = True
    is_key: bool = False

    @property
    def width(self) -> int:
        return 2 + max(map(cell_len, [*self.title.split("\n"), *self.cells]))

    def narrowed(self, width: int) -> Column:
        """Return the column with its words cut to a width; numbers are never cut."""
        if not self.is_key:
            width = WIDEST_TITLE
        if not self.is_key or all(cell[-1:].isdigit() and cell[:1] in "-.0123456789" for cell in self.cells if cell):
            width = max([width, *map(len, self.cells)])
        title = "\n".join(shortened(line, width) for line in self.title.split("\n"))
        return self._replace(title=title, cells=[shortened(cell, width) for cell in self.cells])


def fitting(columns: Sequence[Column], width: int) -> tuple[list[Column], list[str]]:
    """Return the columns as they fit into a width, and the titles of those that have no room."""
    for rank, letters in FITS:
        shown = {i: one.narrowed(letters) for i, one in enumerate(columns) if one.is_key or one.rank <= rank}
        if _width(shown.values()) <= width:
            break
    keys = [index for index in shown if columns[index].is_key]
    while keys and _width(shown.values()) > width:
        del shown[keys.pop()]
    rest = [index for index in range(len(columns)) if index not in shown and not columns[index].is_key]
    for index in sorted(rest, key=lambda index: columns[index].rank):
        if _width(more := {**shown, index: columns[index].narrowed(0)}.values()) <= width:
            shown[index] = list(more)[-1]
    left_out = [column.title.replace("\n", " ") for index, column in enumerate(columns) if index not in shown]
    return [shown[index] for index in sorted(shown)], left_out


def _width(columns: Iterable[Column]) -> int:
    return sum(column.width for column in columns)
