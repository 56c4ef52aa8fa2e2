"""A catalogue of drawn products in the format of the public data set, in two parts: training, validation."""

from __future__ import annotations

import io
import multiprocessing
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from lavic.errors import ConfigError
from lavic.files import FolderLock, prepare_marked, write_atomic, write_json
from lavic.formats import DESCRIPTIONS_KEY, Item, ItemImage, write_train_metadata, write_valid_metadata
from lavic.layout import TRAIN_IMAGES, TRAIN_METADATA, VALID_IMAGES, VALID_METADATA
from lavic.toyshop.conversations import CATEGORY, ConversationCounts, check_look_alikes, write_conversations_of
from lavic.toyshop.drawing import draw
from lavic.toyshop.items import ToyItem, plan_catalogue

__all__ = ["NAMES", "SERVED", "CatalogueCounts", "ToyItem", "plan_catalogue", "write_catalogue"]

#: The folder of pictures that are to be served.
SERVED = "pictures"
#: All that a catalogue's folder may hold.
#: Its presence says that a folder holds a drawn catalogue, which may be replaced.
MARKER = "toyshop.json"
NAMES = (MARKER, TRAIN_METADATA, VALID_METADATA, TRAIN_IMAGES, VALID_IMAGES, SERVED, CATEGORY)

#: An address that leads nowhere: ``.invalid`` is reserved for that.
NOWHERE = "https://toyshop.invalid/I"

#: The same for every item: the metadata must not tell what the picture shows.
CATEGORIES = ("Toy Shop",)
JPEG_QUALITY = 92

MIN_VALID_CONVERSATIONS = 20


@dataclass(frozen=True)
class CatalogueCounts:
    """How many items, one picture each, a catalogue holds, and how many (kind, colour, pattern) they show.

    Attributes:
        conversations: rows of the files of conversations; None if there are none.
    """

    train_items: int
    valid_items: int
    train_combinations: int
    valid_combinations: int
    conversations: ConversationCounts | None = None

    @property
    def items(self) -> int:
        """Training and validation together."""
        return self.train_items + self.valid_items


def write_catalogue(
    output_dir: Path,
    items: int,
    seed: int,
    *,
    on_progress: Callable[[int, int], None] | None = None,
    workers: int = 1,
    overwrite: bool = False,
    served_at: str | None = None,
    conversations: int = 0,
    test_conversations: int = 1000,
    candidates: int = 10,
) -> CatalogueCounts:
    """Draw a catalogue and write it; the metadata come behind the pictures, so a catalogue cut short has none.

    Args:
        output_dir: gets ``item2meta_train.json``, ``item2meta_valid.jsonl``, ``train_images/``,
            ``valid_images/``.
        items: training and validation together, a fifth of them for validation.
        seed: the same seed and number of items give the same bytes, whatever ``workers`` is.
        on_progress: called with (pictures drawn, pictures in all).
        workers: processes that draw; 0 or 1 draws in this one.
        overwrite: replace what the folder holds under those names, and nothing else.
        served_at: the address of the pictures, which then all lie in ``pictures/``; no item has a description.
        conversations: how many to write for training, and a tenth (at least 20) for validation; 0 writes none.
        test_conversations: how many to write for testing, if any are written.
        candidates: how many each list of candidates has.

    Raises:
        ConfigError: fewer items than 12 or than the conversations need, or a negative number of workers.
        OutputError: the folder is not empty, or holds pictures of another origin; it is in use, or cannot be written.
    """
    if workers < 0:
        raise ConfigError(f"{workers} is not a number of processes", where="workers", remedy="Give 0 or more.")
    train, valid = plan_catalogue(items, seed)
    if conversations:
        check_look_alikes(train, valid, seed, candidates=candidates)  # before hours of drawing
    output_dir = Path(output_dir)
    with FolderLock(output_dir):
        prepare_marked(output_dir, MARKER, NAMES, "a drawn catalogue", overwrite=overwrite)
        write_json(output_dir / MARKER, {"items": items, "seed": seed, "conversations": conversations})
        train_folder, valid_folder = (TRAIN_IMAGES, VALID_IMAGES) if served_at is None else (SERVED, SERVED)
        sides = ((output_dir / train_folder, train), (output_dir / valid_folder, valid))
        _draw_pictures(sides, workers, on_progress)
        _write_metadata(output_dir, train, valid, served_at)
        told = None
        if conversations:
            told = write_conversations_of(
                output_dir,
                train,
                valid,
                seed,
                train_rows=conversations,
                valid_rows=max(MIN_VALID_CONVERSATIONS, conversations // 10),
                test_rows=test_conversations,
                candidates=candidates,
            )
    return CatalogueCounts(len(train), len(valid), _combinations(train), _combinations(valid), told)


def _draw_pictures(
    sides: Iterable[tuple[Path, Sequence[ToyItem]]], workers: int, on_progress: Callable[[int, int], None] | None
) -> None:
    """Each side's pictures into its folder."""
    jobs = []
    for folder, items in sides:
        folder.mkdir(exist_ok=True)
        jobs += [(folder / item.image_name, item) for item in items]
    for done, _ in enumerate(_drawn(jobs, workers), 1):
        if on_progress is not None:
            on_progress(done, len(jobs))


def _drawn(jobs: list[tuple[Path, ToyItem]], workers: int) -> Iterator[None]:
    """Draws every picture; yields once for each that is written."""
    if workers <= 1:
        yield from map(_draw_file, jobs)
        return
    # Forking a process that has threads (torch, numpy) may hang it.
    pool = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))
    try:
        yield from pool.map(_draw_file, jobs, chunksize=16)
    finally:
        pool.shutdown(cancel_futures=True)


def _draw_file(job: tuple[Path, ToyItem]) -> None:
    path, item = job
    encoded = io.BytesIO()
    # Without chroma subsampling: small details keep their colour.
    draw(item.look, random.Random(item.picture_seed)).save(encoded, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    write_atomic(path, encoded.getvalue())


def _write_metadata(
    output_dir: Path, train: Sequence[ToyItem], valid: Sequence[ToyItem], served_at: str | None
) -> None:
    """Both files, the training one last."""
    write_valid_metadata(output_dir / VALID_METADATA, (_valid_row(item, served_at) for item in valid))
    write_train_metadata(output_dir / TRAIN_METADATA, (_train_item(item, served_at) for item in train), ascii_only=True)


def _train_item(item: ToyItem, served_at: str | None) -> Item:
    url = _image_url(item, served_at)
    descriptions = {item.image_name: item.description} if served_at is None else {}
    row: dict[str, object] = {
        "title": item.title,
        "categories": list(CATEGORIES),
        "features": [],
        "description": [],
        "images": [{"large": url}],
    }
    if descriptions:
        row[DESCRIPTIONS_KEY] = descriptions
    return Item(item.item_id, item.title, (url,), descriptions, raw=row)


def _valid_row(item: ToyItem, served_at: str | None) -> ItemImage:
    description = item.description if served_at is None else ""
    return ItemImage(item.item_id, item.image_name, item.title, description, image_url=_image_url(item, served_at))


def _image_url(item: ToyItem, served_at: str | None) -> str:
    return f"{(served_at or NOWHERE).rstrip('/')}/{item.image_name}"


def _combinations(items: Sequence[ToyItem]) -> int:
    return len({item.look.combination for item in items})
