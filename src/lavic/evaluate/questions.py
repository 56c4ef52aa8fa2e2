"""What the systems are asked: rows and prompts, with the pictures of the store that a system looks at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from lavic.embed.store import ItemStore, check_store
from lavic.errors import InputError, NothingLeftError
from lavic.evaluate.config import EvaluateSettings
from lavic.evaluate.systems import System, check_kind, check_tokens
from lavic.model.load import BaseModel
from lavic.skipped import SkipLog
from lavic.tune.conversations import category_file
from lavic.tune.samples import AskedRow
from lavic.tune.setup import Choosing, data_given, prepare, rows_of


def stores_of(settings: EvaluateSettings, systems: list[System], own: ItemStore | None) -> dict[Path, ItemStore]:
    """The store of each path that a system's pictures come from; ``own`` is the opened ``--item_store``.

    Raises:
        InputError: one cannot be opened, or holds something else than its system's name says.
    """
    stores = {} if own is None or settings.item_store is None else {settings.item_store: own}
    for system in systems:
        path = system.pictures
        if path is None:
            continue
        if path not in stores:
            stores[path] = ItemStore(path)
        check_kind(system, stores[path])
    return stores


class Questions:
    """What the systems are asked: titles are read once, and rows once for each store that pictures come from.

    Args:
        stores: by their paths.
        skipped: gets what the judged system's metadata and rows lack; it need not be counted again for each store.
    """

    def __init__(
        self, settings: EvaluateSettings, base: BaseModel, stores: Mapping[Path, ItemStore], skipped: SkipLog
    ) -> None:
        self._settings = settings
        self._base = base
        self._stores = stores
        self._skipped = skipped
        self._known: dict[Path | None, tuple[Choosing, list[AskedRow]]] = {}

    def of(self, system: System) -> tuple[Choosing, list[AskedRow]]:
        """The prompts' parts and the rows as the system sees them.

        Raises:
            InputError: the store was made by another model or stage-1 adapter, a file cannot be used, or other rows
                than the first system's are too long.
            NothingLeftError: no row can be used.
        """
        store = None if system.pictures is None else self._stores[system.pictures]
        if store is not None:
            check_tokens(system, store)
        if system.pictures not in self._known:
            self._known[system.pictures] = self._read(system.pictures, store)
            self._require_same_rows(system)
        return self._known[system.pictures]

    def _require_same_rows(self, system: System) -> None:
        """Systems are compared on the same conversations: what one has no room for, the others must not answer."""
        (_, judged), (_, rows) = next(iter(self._known.values())), self._known[system.pictures]
        lost = {row.conversation.where for row in judged} ^ {row.conversation.where for row in rows}
        if lost:
            raise InputError(
                f"{len(lost)} of {max(len(judged), len(rows))} conversations are too long for {system.name}, or for "
                "the first system",
                where=f"--max_length {self._settings.max_length}",
                remedy="Give a larger one, or leave that system out.",
            )

    def _read(self, pictures: Path | None, store: ItemStore | None) -> tuple[Choosing, list[AskedRow]]:
        # Only the judged store's stage-1 adapter is named.
        adapter = self._settings.vision_adapter if pictures == self._settings.item_store else None
        if not self._known:
            notes = self._skipped
            named = self._settings.model_copy(update={"vision_adapter": adapter})
            choosing = prepare(named, self._base, store, notes)
        else:
            notes = SkipLog()
            if store is not None:
                data = data_given(self._settings)
                check_store(store, self._base, adapter, where=str(store.folder), data=data)
            first, _ = next(iter(self._known.values()))
            choosing = replace(first, catalogue=replace(first.catalogue, store=store, skipped=notes))
        path = category_file(self._settings, self._settings.split)
        try:
            return choosing, rows_of(path, self._settings, choosing, notes, max_rows=self._settings.max_rows)
        except NothingLeftError:
            if not self._known:
                raise
            return choosing, []
