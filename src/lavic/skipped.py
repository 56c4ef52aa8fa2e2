"""Rows and pictures that were left out: counted in memory, listed in ``skipped.jsonl``."""

from __future__ import annotations

import hashlib
import re
import shutil
import tempfile
from collections import Counter
from pathlib import Path, PurePath
from types import TracebackType
from typing import IO, Any, Self

from lavic.errors import OutputError
from lavic.files import append_jsonl, atomic_path, json_line, read_jsonl

# A reason is a fixed wording, so there are a few dozen; the limits hold where a caller puts data into one.
MAX_REASONS = 200
MAX_FIELD_CHARS = 300
MAX_REMEMBERED = 1_000_000  # 16 bytes a row, to list a picture that fails in every epoch once

OTHER_REASON = "other reasons"


def kind_of(reason: str) -> str:
    """A reason without the figure that it begins with: texts that are too long by any number of tokens are one kind."""
    return re.sub(r"^\d[\d,.]* ", "… ", reason)


def most_frequent(reasons: Counter[str]) -> str:
    """For a sentence about rows that were left out; there must be a reason."""
    reason, count = reasons.most_common(1)[0]
    return f"most frequent reason, {count:,} times: {reason}"


class SkipLog:
    """Counts what was left out, and lists each case once.

    Args:
        path: where the list goes, usually ``<output>/skipped.jsonl``; rows reach it as they are found, so a
            killed run leaves them. Without a path, cases are only counted.
        aside: there is no path yet: hold the list until ``keep_at`` says where it goes.
        resume: keep what an earlier part of the same run listed, and count it; otherwise start an empty list.

    Raises:
        OutputError: the list cannot be written.

    Attributes:
        count: distinct cases.
        by_reason: reason (see ``kind_of``) -> cases; one entry takes what comes after ``MAX_REASONS`` of them.
        notes: what was counted without costing a row, such as missing titles.
    """

    def __init__(self, path: Path | None = None, *, resume: bool = False, aside: bool = False) -> None:
        self.path = path
        self._aside: IO[bytes] | None = tempfile.TemporaryFile() if aside else None  # noqa: SIM115 (close() does)
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
        if not self._count(row):
            return
        if self.path is not None:
            append_jsonl(self.path, row)
        elif self._aside is not None:
            self._aside.write(json_line(row))

    def keep_at(self, path: Path) -> None:
        """From now on the list is here; what was held until now goes there, if there is any."""
        assert self._aside is not None, "the list has a place already"
        if self._aside.tell():
            self._aside.seek(0)
            with atomic_path(path) as part, part.open("wb") as file:
                shutil.copyfileobj(self._aside, file)
        self._aside.close()
        self.path, self._aside = path, None

    def _count(self, row: dict[str, str]) -> bool:
        """Count a case, unless it is known already."""
        # By the file's name alone: a resumed run may find its data in another folder.
        same = {**row, "file": PurePath(row["file"]).name}
        joined = "\0".join(same.values()).encode("utf-8", "surrogatepass")
        mark = hashlib.blake2b(joined, digest_size=16).digest()
        if mark in self._seen:
            return False
        if len(self._seen) < MAX_REMEMBERED:
            self._seen.add(mark)
        self.count += 1
        reason = kind_of(row["reason"])
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
        if self._aside is not None:
            self._aside.close()
