"""Values as a person or JSON reads them; nothing here prints."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any


def plain_table(rows: Sequence[Sequence[object]], header: Sequence[str] = ()) -> list[str]:
    """The lines of a table without colour, columns divided by two spaces."""
    cells = [[printable(shown(cell)) for cell in row] for row in rows]
    body = [list(header), *cells] if header else cells
    columns = max((len(row) for row in body), default=0)
    widths = [max((len(row[i]) for row in body if i < len(row)), default=0) for i in range(columns)]
    numeric = [all(is_number(row[i]) for row in rows if i < len(row)) for i in range(columns)]
    lines = [
        "  ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, numeric, strict=False)
        ).rstrip()
        for row in body
    ]
    if header:
        lines.insert(1, "  ".join("-" * width for width in widths))
    return lines


def is_number(value: object) -> bool:
    """Whether a cell is aligned on the right."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def shown(value: object) -> str:
    """A value as a person reads it."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        if not math.isfinite(value):
            return "not finite"
        return f"{value:.4f}" if 0.001 <= abs(value) < 1e5 or value == 0 else f"{value:.4g}"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, list | tuple):
        return ", ".join(shown(item) for item in value) or "-"
    return str(value)


def flat(values: Mapping[str, object], prefix: str = "") -> list[tuple[str, object]]:
    """Nested names and values on one level, inner names after a dot."""
    pairs: list[tuple[str, object]] = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            pairs += flat(value, f"{prefix}{key}.")
        else:
            pairs.append((f"{prefix}{key}", value))
    return pairs


def json_ready(value: Any) -> Any:
    """A value as JSON can hold it: paths as text, what is not finite as null."""
    if isinstance(value, Mapping):
        return {str(key): json_ready(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [json_ready(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    return str(value)


def duration(seconds: float) -> str:
    """``3 h 05 min``, ``4 min 10 s`` or ``12 s``."""
    whole = max(0, round(seconds))
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    if whole >= 60:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole} s"


def printable(text: str) -> str:
    """Text without control characters: titles come from the internet and may hold terminal commands."""
    if text.isprintable():
        return text
    return "".join(
        c if c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cs") else "\N{REPLACEMENT CHARACTER}" for c in text
    )
