"""What commands print: one JSON document, or lines for people. Errors and progress go to stderr, never here."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from datetime import datetime

import msgspec

_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")


def write_json(document: object) -> None:
    """One document on stdout, alone in its line."""
    sys.stdout.write(msgspec.json.encode(document).decode("utf-8") + "\n")
    sys.stdout.flush()


def write_line(text: str) -> None:
    sys.stdout.write(text + "\n")


def write_table(rows: Iterable[Sequence[str]], *, right: frozenset[int] = frozenset()) -> None:
    """Rows as aligned columns, two spaces apart; those in `right` are right-aligned, the last one is not padded."""
    table = [list(row) for row in rows]
    if not table:
        return
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    for row in table:
        cells = [
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        write_line("  ".join(cells).rstrip())


def plain(text: str) -> str:
    """A name without the control characters that could drive a terminal."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)


def counted(number: int, thing: str) -> str:
    """1 file, 2 files."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def human_size(size_bytes: int) -> str:
    """Decimal units, three significant digits: 999 B, 1.00 kB, 12.3 MB."""
    value = float(size_bytes)
    for unit in _UNITS:
        if value < 999.5 or unit == _UNITS[-1]:
            break
        value /= 1000
    if unit == "B":
        return f"{size_bytes} B"
    digits = 2 if value < 9.995 else 1 if value < 99.95 else 0
    return f"{value:.{digits}f} {unit}"


def human_time(moment: datetime | None) -> str:
    """In the computer's own time zone, to the minute; "-" where there is none."""
    return moment.astimezone().strftime("%Y-%m-%d %H:%M") if moment is not None else "-"
