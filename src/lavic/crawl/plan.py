"""A first reading of the metadata, before anything is fetched: how many pictures, names that repeat, the sample.

So half-copied metadata is noticed before the first request, and the bar knows its end. The second reading
fetches. In between only some bytes a picture are kept.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from lavic.crawl.config import CrawlSettings
from lavic.crawl.targets import Target, category_ids, read_targets
from lavic.errors import NothingLeftError
from lavic.rows import REPEATED_KEY
from lavic.skipped import SkipLog


def mark_of(key: str, seed: int = 0) -> int:
    """A number of 64 bits for a picture; equal keys and seeds give equal ones on every machine."""
    salt = seed.to_bytes(8, "little")
    return int.from_bytes(hashlib.blake2b(key.encode("utf-8", "replace"), digest_size=8, salt=salt).digest(), "little")


@dataclass(frozen=True)
class Plan:
    """What is to be there in the end.

    Attributes:
        total: pictures, each name once.
        repeated: marks of names that stand more than once.
        limit: only pictures whose mark with the sample's seed is at most this; None takes all.
        ids: only these items; None takes all.
        unusable: rows of the metadata that name no picture, but should.
        undescribed: whether one of the metadata files has no description at all.
    """

    settings: CrawlSettings
    total: int
    repeated: frozenset[int]
    limit: int | None
    ids: frozenset[str] | None
    unusable: int
    undescribed: bool

    def targets(self) -> Iterator[Target]:
        """The pictures, in file order, each name once."""
        seen: set[int] = set()
        for target in read_targets(self.settings, SkipLog(), self.ids):
            if self.limit is not None and mark_of(target.key, self.settings.seed) > self.limit:
                continue
            if self.repeated:
                mark = mark_of(target.key)
                if mark in seen:
                    continue
                if mark in self.repeated:
                    seen.add(mark)
            yield target


def make_plan(settings: CrawlSettings, skipped: SkipLog) -> Plan:
    """Read all metadata once.

    Raises:
        InputError: a file cannot be used; nothing was fetched yet.
        NothingLeftError: there is no picture in it.
    """
    ids = category_ids(settings.data_dir, settings.category, skipped) if settings.category else None
    # What is listed until here are conversations; and a key that stands twice costs no picture.
    before = _unusable(skipped)
    marks, lots = array("Q"), array("Q")
    described: dict[str, bool] = {}
    for target in read_targets(settings, skipped, ids):
        marks.append(mark_of(target.key))
        described[target.split] = target.described or described.get(target.split, False)
        if settings.sample is not None:
            lots.append(mark_of(target.key, settings.seed))
    if not marks:
        where = str(settings.table or (settings.val_data if settings.valid_only else settings.train_data))
        hint = f"--category {settings.category} mentions no item of it." if settings.category else ""
        raise NothingLeftError("there is no picture to fetch", where=where, remedy=hint)
    values, counts = np.unique(np.frombuffer(marks, dtype=np.uint64), return_counts=True)
    repeated = frozenset(int(value) for value in values[counts > 1])
    if repeated:
        skipped.note("pictures whose name stands more than once; the first address is taken", len(marks) - len(values))
    total, limit = len(values), None
    if settings.sample is not None and settings.sample < total:
        total = settings.sample
        # The pictures with the smallest numbers are a sample that neither order nor repetition changes.
        limit = int(np.unique(np.frombuffer(lots, dtype=np.uint64))[total - 1])
    undescribed = not all(described.values())
    return Plan(settings, total, repeated, limit, ids, _unusable(skipped) - before, undescribed)


def _unusable(skipped: SkipLog) -> int:
    return skipped.count - skipped.by_reason[REPEATED_KEY]
