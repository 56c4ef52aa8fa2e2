"""Where pictures go: one file each, or shards. What is there already is never deleted, only replaced when asked."""

from __future__ import annotations

import stat
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol

from lavic.crawl.config import CrawlSettings
from lavic.crawl.failures import CrawlFailure
from lavic.crawl.picture_pool import PicturePool, Stored
from lavic.crawl.shards import Shards
from lavic.crawl.targets import TABLE, TRAIN, VALID, Target
from lavic.errors import InputError, OutputError
from lavic.files import FolderLock, prepare_output, safe_join, safe_name


class Storage(Protocol):
    """What the crawl needs of a place for pictures."""

    def has(self, target: Target) -> bool:
        """Whether the picture is there.

        Raises:
            CrawlFailure: its place is taken by something else.
        """

    async def put(self, target: Target, data: bytes, pool: PicturePool) -> tuple[Stored, dict[str, Any]]:
        """Decode and store a download; gives also what the report says of the place.

        Raises:
            CrawlFailure: it is no picture.
            OutputError: it cannot be written.
        """


def image_folders(settings: CrawlSettings) -> dict[str, Path]:
    """Split -> folder, of those that this run fills."""
    if settings.table is not None:
        return {TABLE: settings.train_images_dir}
    both = {TRAIN: settings.train_images_dir, VALID: settings.val_images_dir}
    left_out = VALID if settings.train_only else TRAIN if settings.valid_only else ""
    return {split: folder for split, folder in both.items() if split != left_out}


def lock_folders(folders: Mapping[str, Path], stack: ExitStack) -> None:
    """Make the folders, keep other runs out, clear away halves that killed runs left.

    Raises:
        OutputError: another run is writing there, or the folder cannot be written to.
    """
    for folder in folders.values():
        try:
            stack.enter_context(FolderLock(folder))
            prepare_output(folder, resume=True, overwrite=False, known=("*.*",))
        except OutputError as error:
            remedy = "Wait until it ends, or name another folder." if "another run" in error.problem else ""
            raise OutputError(
                error.problem, where=error.where, remedy=remedy or "Check --train_images_dir and --val_images_dir."
            ) from error


@contextmanager
def _as_bad_name() -> Iterator[None]:
    """What a name does wrong, as what became of the picture."""
    try:
        yield
    except InputError as error:
        raise CrawlFailure("bad_name", error.problem) from error


class FileStorage:
    """A file per picture, under the name that the metadata gives it."""

    def __init__(self, folders: Mapping[str, Path]) -> None:
        self._folders = folders

    def path(self, target: Target) -> Path:
        """Where the picture lies or will lie.

        Raises:
            CrawlFailure: the name leads out of the folder.
        """
        with _as_bad_name():
            return self._folders[target.split] / safe_name(target.image_name)

    def has(self, target: Target) -> bool:
        """As ``Storage``; a file of no bytes is not there."""
        path = self.path(target)
        try:
            found = path.lstat()
        except FileNotFoundError:
            return False
        except OSError as error:
            raise CrawlFailure("bad_name", f"its file cannot be looked at ({error.strerror})") from error
        if stat.S_ISLNK(found.st_mode):
            with _as_bad_name():
                safe_join(path.parent, path.name)  # it must not lead out of the folder
            return path.is_file() and path.stat().st_size > 0
        if not stat.S_ISREG(found.st_mode):
            raise CrawlFailure("bad_name", "its name is taken by a folder or a device")
        return found.st_size > 0

    async def put(self, target: Target, data: bytes, pool: PicturePool) -> tuple[Stored, dict[str, Any]]:
        """As ``Storage``; the process that decodes also writes."""
        return await pool.store(data, self.path(target)), {}


class ShardStorage:
    """WebDataset shards in the folders of pictures."""

    def __init__(self, folders: Mapping[str, Path], shard_size: int, stack: ExitStack) -> None:
        self._shards = {split: stack.enter_context(Shards(folder, shard_size)) for split, folder in folders.items()}

    def has(self, target: Target) -> bool:
        """As ``Storage``."""
        return target.image_name in self._shards[target.split]

    async def put(self, target: Target, data: bytes, pool: PicturePool) -> tuple[Stored, dict[str, Any]]:
        """As ``Storage``."""
        stored = await pool.store(data, None, back=True)
        facts: dict[str, Any] = {"item_id": target.item_id, "url": target.url, "sha256": stored.sha256}
        facts |= {"width": stored.width, "height": stored.height}
        shard = self._shards[target.split].add(target.image_name, stored.data, facts)
        return stored, {"shard": shard}
