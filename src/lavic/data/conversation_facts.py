"""What conversation files hold: lengths, right items, how often a list of candidates has one, and leaks."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

from lavic.conversations import Conversation, read_conversations
from lavic.data.spread import Spread
from lavic.formats import SkipLog

#: The published lists have ten candidates each.
CANDIDATES = 10
_ASIN = re.compile(r"B[0-9A-Z]{9}")
_SUBMISSION = re.compile(r"<submission>(.*?)</submission>", re.DOTALL)


@dataclass
class ListFacts:
    """One list of candidates (``candidates_st``, ``candidates_gpt_large``) over the rows of a file.

    Attributes:
        rows: rows that have the list.
        irregular: of those, rows without exactly ten different candidates.
        with_right: rows with a right item among the candidates: the ceiling of all that follows.
        with_several: rows with two or more different right items among them.
    """

    rows: int = 0
    irregular: int = 0
    with_right: int = 0
    with_several: int = 0


@dataclass
class ConversationFacts:
    """One conversation file.

    Attributes:
        repeated: rows whose ``gt_items`` name an item twice.
        several: rows with different right items.
        without_right: rows without any.
        in_text, in_context_items: rows in which a right ID stands in the context, in ``context_items``: leaks.
        ids: different IDs, right, candidate or mentioned; ``other_ids`` are not built like ``B`` and nine more.
        submissions: hashes of the opening posts, to find those that stand in two splits.
    """

    rows: int = 0
    left_out: int = 0
    repeated: int = 0
    several: int = 0
    without_right: int = 0
    in_text: int = 0
    in_context_items: int = 0
    characters: Spread = field(default_factory=Spread)
    tokens: Spread = field(default_factory=Spread)
    lists: dict[str, ListFacts] = field(default_factory=dict)
    ids: set[str] = field(default_factory=set)
    submissions: Counter[bytes] = field(default_factory=Counter)

    def summary(self) -> dict[str, object]:
        """All figures."""
        return {
            "rows": self.rows,
            "rows_left_out": self.left_out,
            "context_characters": self.characters.summary(),
            "context_tokens": self.tokens.summary(),
            "opening_posts": len(self.submissions),
            "right_item_repeated": self.repeated,
            "several_right_items": self.several,
            "no_right_item": self.without_right,
            "leak_right_id_in_text": self.in_text,
            "leak_right_id_in_context_items": self.in_context_items,
            "item_ids": len(self.ids),
            "item_ids_not_asins": sum(_ASIN.fullmatch(item_id) is None for item_id in self.ids),
            "candidates": {
                name: {
                    "rows": each.rows,
                    "not_ten_different": each.irregular,
                    "right_item_among_them": each.with_right,
                    "right_item_share": round(each.with_right / each.rows, 4),
                    "several_right_items_among_them": each.with_several,
                }
                for name, each in sorted(self.lists.items())
            },
        }

    def add(self, row: Conversation, tokens: int) -> None:
        """Count one row."""
        right = row.ground_truth
        self.rows += 1
        self.characters.add(len(row.context))
        self.tokens.add(tokens)
        self.submissions[opening_post(row.context)] += 1
        self.repeated += len(right) < len(row.gt_items)
        self.several += len(right) > 1
        self.without_right += not right
        in_text, in_items = leaks_of(row)
        self.in_text += in_text
        self.in_context_items += in_items
        self.ids.update(right, row.context_items, *row.candidates.values())
        for name, candidates in row.candidates.items():
            each = self.lists.setdefault(name, ListFacts())
            each.rows += 1
            each.irregular += not len(set(candidates)) == len(candidates) == CANDIDATES
            each.with_right += bool(right & set(candidates))
            each.with_several += len(right & set(candidates)) > 1


def leaks_of(row: Conversation) -> tuple[bool, bool]:
    """Whether a right ID stands in the context's text, and in ``context_items``: the answer is given away."""
    return any(item_id in row.context for item_id in row.gt_items), bool(row.ground_truth & set(row.context_items))


def opening_post(context: str) -> bytes:
    """A hash of the submission, which several rows share that answer it; of the whole context without one."""
    match = _SUBMISSION.search(context)
    text = match[1] if match else context
    return hashlib.blake2b(" ".join(text.split()).encode("utf-8", "surrogatepass"), digest_size=16).digest()


def look_at_conversations(path: Path, skipped: SkipLog, count_tokens: Callable[[str], int]) -> ConversationFacts:
    """Read one conversation file, a row at a time.

    Raises:
        InputError: the file as a whole cannot be used.
    """
    facts = ConversationFacts()
    for row in read_conversations(path, skipped):
        facts.add(row, count_tokens(row.context))
    facts.left_out = skipped.count
    return facts


def shared_posts(splits: dict[str, ConversationFacts]) -> dict[str, int]:
    """Opening posts that stand in two splits of a category: "train and test" -> how many."""
    return {
        f"{first} and {second}": len(splits[first].submissions.keys() & splits[second].submissions.keys())
        for first, second in combinations(splits, 2)
    }
