"""What a check found: its place in the table, ok, warning or NO GO, and what to do."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from lavic.errors import LavicError


class Status(IntEnum):
    """The worst of several is the largest."""

    OK = 0
    WARNING = 1
    NO_GO = 2

    @property
    def word(self) -> str:
        """As the table and the JSON document say it."""
        return ("ok", "warning", "NO GO")[self]


@dataclass(frozen=True)
class Finding:
    """A row of the table.

    Attributes:
        name: what was looked at, a few words.
        found: short facts, each a line of the table.
        remedy: what to do, a sentence; "" where there is nothing to do.
    """

    name: str
    status: Status
    found: tuple[str, ...]
    remedy: str = ""

    def as_json(self) -> dict[str, str]:
        """One entry of ``checks``."""
        return {
            "name": self.name,
            "status": self.status.word.lower().replace(" ", "_"),
            "found": "; ".join(self.found),
            "remedy": self.remedy,
        }


def ok(name: str, *found: str) -> Finding:
    """Nothing to do."""
    return Finding(name, Status.OK, found)


def warning(name: str, *found: str, remedy: str) -> Finding:
    """The run can begin, but its user should look at this first."""
    return Finding(name, Status.WARNING, found, remedy)


def no_go(name: str, *found: str, remedy: str) -> Finding:
    """The run would fail, or be a waste of hours."""
    return Finding(name, Status.NO_GO, found, remedy)


def refused(name: str, error: LavicError) -> Finding:
    """What the run would stop with."""
    problem = f"{error.where}: {error.problem}" if error.where else error.problem
    return no_go(name, " ".join(problem.split()), remedy=error.remedy or "Correct this first.")


def guarded(name: str, check: Callable[[], Finding | Iterable[Finding]]) -> list[Finding]:
    """The findings of one check; whatever it raises is a finding too, and the other checks still run."""
    try:
        found = check()
        return [found] if isinstance(found, Finding) else list(found)
    except LavicError as error:
        return [refused(name, error)]
    except Exception as error:  # a border: one check that fails must not hide what the others find
        return [
            no_go(
                name,
                f"this check could not be made ({type(error).__name__}: {' '.join(str(error).split())[:200]})",
                remedy="Look at what it names; if that is in order, please report these words.",
            )
        ]


def worst(findings: Iterable[Finding]) -> Status:
    """The status of the whole."""
    return max((finding.status for finding in findings), default=Status.OK)


def share(part: int, whole: int) -> str:
    """``12 of 480 (2.5 %)``."""
    percent = 100 * part / whole if whole else 0.0
    return f"{part:,} of {whole:,} ({percent:.3g} %)"


def gigabytes(count: float) -> str:
    """Bytes as a person reads them: GB above one, MB below."""
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{max(count, 1e5) / 1e6:,.1f} MB"


def plural(count: int, one: str, several: str = "") -> str:
    """``1 picture``, ``1,200 pictures``."""
    return f"{count:,} {one if count == 1 else several or one + 's'}"


Counts = dict[str, Any]
