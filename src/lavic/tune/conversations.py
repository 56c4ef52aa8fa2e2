"""Conversations as prompts need them: files of a category, titles, which items have visual tokens."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from collections.abc import Sequence as Rows
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lavic.conversations import Conversation, read_conversations
from lavic.embed.store import ItemStore
from lavic.errors import ConfigError, InputError, NothingLeftError
from lavic.formats import NO_TITLE, read_train_items, read_valid_metadata
from lavic.layout import conversation_files
from lavic.model.recommendation import Candidate
from lavic.skipped import SkipLog
from lavic.tune.config import ConversationSettings

NO_METADATA = "candidates without metadata, titled 'No Title'"
NO_PICTURE = "candidates without a picture, shown by ID and title alone"
REPEATED = "candidates that stand twice in a list, taken once"
SHORTENED = "conversations shortened for --max_length"


def category_file(settings: ConversationSettings, split: str) -> Path:
    """``CONVERSATIONS/CATEGORY/SPLIT.jsonl``.

    Raises:
        ConfigError: no such category, or several and none named.
        InputError: there are no conversations, or no such split.
    """
    found = conversation_files(settings.conversations)
    category = settings.category or (next(iter(found)) if len(found) == 1 else None)
    known = ", ".join(found)
    if category is None:
        raise ConfigError("which one is meant?", where="--category", remedy=f"There are: {known}.")
    if category not in found:
        raise ConfigError(f"there is no category {category!r}", where="--category", remedy=f"There are: {known}.")
    if split not in found[category]:
        raise InputError("there is no such file", where=str(settings.conversations / category / f"{split}.jsonl"))
    return found[category][split]


@dataclass
class Catalogue:
    """What is told of an item, and its visual tokens.

    Attributes:
        titles: by item ID.
        store: None shows no pictures.
        skipped: gets counts of what is missing.
        images_per_item: up to how many stored pictures of an item are shown.
    """

    titles: Mapping[str, str]
    store: ItemStore | None
    skipped: SkipLog
    images_per_item: int = 1

    def candidate(self, item_id: str) -> Candidate:
        """One line of a prompt; an item that nothing is known of takes the text-only slot, and is counted."""
        title = self.titles.get(item_id)
        if title is None:
            self.skipped.note(NO_METADATA)
        pictured = self.store is not None and item_id in self.store
        if self.store is not None and not pictured:
            self.skipped.note(NO_PICTURE)
        return Candidate(item_id, title or NO_TITLE, pictured, self._tokens_of(item_id) if pictured else None)

    def _tokens_of(self, item_id: str) -> int | None:
        """How many visual tokens an item is shown with; None for V."""
        assert self.store is not None, "it has a picture"
        if self.images_per_item == 1 and not self.store.all_image_tokens:
            return None
        return sum(self.store.tokens_of(item_id, image) for image in self._images(self.store, item_id))

    def _images(self, store: ItemStore, item_id: str) -> range:
        """Which of an item's stored pictures are shown."""
        return range(min(self.images_per_item, store.images_of(item_id)))

    def visual_tokens(self, item_ids: Rows[str]) -> Tensor | None:
        """[n, V, D] of those items that have a picture, in their order; None if there are none.

        n are the items, or more where several pictures or all image tokens are shown.
        """
        store = self.store
        pictured = [item_id for item_id in item_ids if store is not None and item_id in store]
        if store is None or not pictured:
            return None
        if self.images_per_item == 1:
            return store.tokens(pictured)
        return torch.cat(
            [store.tokens([item_id], image) for item_id in pictured for image in self._images(store, item_id)]
        )


def read_titles(settings: ConversationSettings, skipped: SkipLog) -> dict[str, str]:
    """Item ID -> title, of both metadata files, whether their pictures are described or not.

    Raises:
        InputError: a file cannot be used.
    """
    titles: dict[str, str] = {}
    if settings.item_meta_path is not None:
        items = read_train_items(settings.item_meta_path, skipped, described=False)
        titles.update((item.item_id, item.title) for item in items)
    if settings.val_data is not None:
        for image in read_valid_metadata(settings.val_data, skipped, described=False):
            titles.setdefault(image.item_id, image.title)
    return titles


def conversations_of(path: Path, candidate_type: str, skipped: SkipLog) -> Iterator[tuple[Conversation, Rows[str]]]:
    """Each conversation that has the list of candidates, and the list, each item once.

    Raises:
        InputError: the file cannot be used.
        NothingLeftError: no row has the list.
    """
    usable = 0
    other: set[str] = set()
    for conversation in read_conversations(path, skipped):
        given = conversation.candidates.get(candidate_type)
        if not given:
            other.update(conversation.candidates)
            reason = f"there is no list candidates_{candidate_type}" if given is None else "the list is empty"
            skipped.add(file=path, where=conversation.place, key=f"candidates_{candidate_type}", reason=reason)
            continue
        usable += 1
        candidates = tuple(dict.fromkeys(given))
        if len(candidates) < len(given):
            skipped.note(REPEATED, len(given) - len(candidates))
        yield conversation, candidates
    if not usable:
        remedy = f"It has: {', '.join(f'candidates_{name}' for name in sorted(other))}." if other else ""
        raise NothingLeftError(f"no row has candidates_{candidate_type}", where=str(path), remedy=remedy)
