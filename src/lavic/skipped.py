"""Rows and pictures that were left out: counted in memory, listed in ``skipped.jsonl``."""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from lavic.errors import OutputError
from lavic.files import append_jsonl, read_jsonl

# A reason is a fixed wording, so there are a few dozen; the limits hold where a caller puts data into one.
MAX_REASONS = 200
MAX_FIELD_CHARS = 300
MAX_REMEMBERED = 1_000_000  # 16 bytes a row, to list a picture that fails in every epoch once

OTHER_REASON = "other reasons"


class SkipLog:
    """Counts what was left out, and lists each case once.

    Args:
        path: where the list goes, usually ``<output>/skipped.jsonl``; rows reach it as they are found, so a
            killed run leaves them. Without a path, cases are only counted.
        resume: keep what an earlier part of the same run listed, and count it; otherwise start an empty list.

    Raises:
        OutputError: the list cannot be written.

    Attributes:
        count: distinct cases.
        by_reason: reason -> cases; one entry takes what comes after ``MAX_REASONS`` of them.
        notes: what was counted without costing a row, such as missing titles.
    """

    def __init__(self, path: Path | None = None, *, resume: bool = False) -> None:
        self.path = path
        self.count = 0
        self.by_reason: Counter[str] = Counter()
        self.notes: Counter[str] = Counter()
        self._seen: set[bytes] = set()
        if path is None:
            return
        if resume and path.exists():
            for row in read_jsonl(path):
                self._count({key: str(row.get(key, "")) for key in ("file", "where", "key", "reason")})
        else:
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                problem = f"the list of skipped rows cannot be replaced ({error.strerror})"
                raise OutputError(problem, where=str(path)) from error

    def add(self, *, file: str | Path, where: str, key: str = "", reason: str) -> None:
        """List one case: the file, the line or ID in it, the key concerned, and why."""
        row = {"file": str(file), "where": where, "key": key, "reason": reason}
        row = {name: text[:MAX_FIELD_CHARS] for name, text in row.items()}
        if self._count(row) and self.path is not None:
            append_jsonl(self.path, row)

    def _count(self, row: dict[str, str]) -> bool:
        """Count a case, unless it is known already."""
        joined = "\0".join(row.values()).encode("utf-8", "surrogatepass")
        mark = hashlib.blake2b(joined, digest_size=16).digest()
        if mark in self._seen:
            return False
        if len(self._seen) < MAX_REMEMBERED:
            self._seen.add(mark)
        self.count += 1
        reason = row["reason"]
        if reason not in self.by_reason and len(self.by_reason) >= MAX_REASONS:
            reason = OTHER_REASON
        self.by_reason[reason] += 1
        return True

    def note(self, what: str, count: int = 1) -> None:
        """Count something worth telling that cost no row."""
        self.notes[what] += count

    def summary(self) -> dict[str, Any]:
        """The counts, most frequent first, as they go into a run's closing report."""
        return {
            "skipped": self.count,
            "reasons": dict(self.by_reason.most_common()),
            "notes": dict(self.notes.most_common()),
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Forget which cases were seen; the counts stay."""
        self._seen.clear()
