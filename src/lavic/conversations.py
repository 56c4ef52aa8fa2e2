"""The conversations of a category (``train.jsonl``, ``valid.jsonl``, ``test.jsonl``): reading, checks, writing.

A row that cannot be used is listed in the SkipLog and left out; one that is written again unchanged has the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lavic.files import atomic_path, json_line
from lavic.rows import CANDIDATES_PREFIX, ConversationRow, check_row, conversation_problem, read_rows
from lavic.skipped import SkipLog


@dataclass(frozen=True)
class Conversation:
    """A dialogue, the items that answered it, and lists to choose from.

    Attributes:
        gt_items: as published, so IDs may repeat; ``ground_truth`` is the set of them.
        candidates: "st", "gpt_large" -> IDs in order.
        answer: the raw text of the answering comment (``gt``).
        where: "file, line N".
        raw: the row as read.
    """

    context: str
    gt_items: tuple[str, ...]
    candidates: Mapping[str, tuple[str, ...]]
    context_items: tuple[str, ...] = ()
    answer: str = ""
    where: str = ""
    raw: Mapping[str, Any] | None = field(default=None, repr=False, compare=False)

    @property
    def ground_truth(self) -> frozenset[str]:
        """The right IDs."""
        return frozenset(self.gt_items)

    @property
    def place(self) -> str:
        """``line 12``: where it stands in its file."""
        return self.where.rpartition(", ")[2]

    @property
    def needed_ids(self) -> tuple[str, ...]:
        """The items without which it is of no use: right ones and candidates, each once."""
        return tuple(dict.fromkeys([*self.gt_items, *(item_id for ids in self.candidates.values() for item_id in ids)]))

    def row(self) -> dict[str, Any]:
        """A row for a file: as it was read, or made of what it holds."""
        if self.raw is not None:
            return dict(self.raw)
        return {
            "context": self.context,
            "context_items": list(self.context_items),
            "gt": self.answer,
            "gt_items": list(self.gt_items),
            **{CANDIDATES_PREFIX + name: list(ids) for name, ids in self.candidates.items()},
        }


def read_conversations(path: Path, skipped: SkipLog) -> Iterator[Conversation]:
    """The conversations of a file (JSONL, plain or zipped), in file order.

    Raises:
        InputError: the file cannot be opened or is empty; a bad line is only listed.
    """
    for number, value in read_rows(path, skipped):
        place = f"line {number}"
        row, key, reason = check_row(ConversationRow, value)
        if row is not None:
            key, reason = conversation_problem(row, value)
        if row is None or reason:
            skipped.add(file=path, where=place, key=key, reason=reason)
            continue
        yield Conversation(
            context=row.context,
            gt_items=tuple(row.gt_items),
            candidates={
                key.removeprefix(CANDIDATES_PREFIX): tuple(ids)
                for key, ids in value.items()
                if key.startswith(CANDIDATES_PREFIX)
            },
            context_items=tuple(row.context_items),
            answer=row.gt,
            where=f"{path}, {place}",
            raw=value,
        )


def write_conversations(path: Path, conversations: Iterable[Conversation]) -> None:
    """Write a conversation file: ASCII, the rest escaped; a row that was read keeps its keys."""
    with atomic_path(path) as part, part.open("wb") as stream:
        for conversation in conversations:
            row = conversation.row()
            for name, ids in conversation.candidates.items():
                row[CANDIDATES_PREFIX + name] = list(ids)
            stream.write(json_line(row, ascii_only=True))
