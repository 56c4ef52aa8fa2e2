"""Fills the store of the teacher's probabilities: one pass over the final text of every training description.

The teacher is given the student's joined sequence with all its image tokens in the placeholders' stead, so its
probabilities stand at the very tokens that the student is trained on.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from collections.abc import Sequence as Rows
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from lavic.console import Console
from lavic.describe.batches import in_batches, read_ahead, readable
from lavic.describe.config import DescribeSettings
from lavic.describe.lengths import image_token_count
from lavic.describe.likeliest import top_logits_of
from lavic.describe.sides import Side
from lavic.describe.teacher import Teacher
from lavic.describe.top_logits import (
    FORMAT,
    STORE_FILE,
    TokenLogits,
    bytes_per_token,
    default_folder,
    no_tokens,
    read_store,
    shard_files,
    shard_index,
    text_mark,
    write_shard,
)
from lavic.errors import ConfigError, InputError, OutputError
from lavic.files import FolderLock, remove_file, write_json
from lavic.formats import ItemImage, read_train_metadata
from lavic.images import picture_size
from lavic.layout import find_picture
from lavic.model.full_tokens import FullTokenModel
from lavic.model.load import BaseModel, public_name
from lavic.model.sequences import SequenceBuilder
from lavic.prompts import load_prompts
from lavic.skipped import SkipLog
from lavic.training.devices import choose_device, choose_precision
from lavic.training.identity import differences, weights_mark
from lavic.training.interrupts import Interrupts


@dataclass(frozen=True)
class _Described:
    image: ItemImage
    path: Path

    @property
    def where(self) -> str:
        """In the metadata."""
        return self.image.where

    @property
    def image_name(self) -> str:
        """As the metadata have it."""
        return self.image.image_name

    @property
    def mark(self) -> tuple[str, str]:
        """What tells it from others, and from itself with another text."""
        return self.image.image_name, text_mark(self.image.title, self.image.description)


def store_folder(settings: DescribeSettings, target: Path) -> Path:
    """Where the store goes."""
    return settings.logits_dir or default_folder(target)


def check_store(settings: DescribeSettings, side: Side) -> None:
    """See that the folder may be written, before the hours that come first.

    Raises:
        OutputError: it holds a store of another model or other settings, which is not to be replaced.
    """
    if not settings.overwrite:
        _refuse_others(store_folder(settings, side.target), _known(settings))


def store_top_logits(
    settings: DescribeSettings, side: Side, teacher: Teacher, skipped: SkipLog, console: Console
) -> dict[str, Any]:
    """Make or complete the store; returns what the summary says of it.

    Raises:
        OutputError: the folder holds a store of another model or other settings, or cannot be written.
        KeyboardInterrupt: Ctrl-C; whole shards are kept.
    """
    assert settings.top_logits is not None
    folder = store_folder(settings, side.target)
    source = side.target if side.target.exists() else side.source
    with FolderLock(folder):
        images = list(_there(source, side.images_dir, skipped))
        shards = list(in_batches(images, settings.shard_size))
        _clear_or_refuse(folder, _known(settings), settings.overwrite)
        # Without the file that says what the store is, nobody knows whose numbers its shards hold.
        known = (folder / STORE_FILE).exists()
        missing = [number for number, shard in enumerate(shards) if not (known and _whole(folder, number, shard))]
        if missing or not known:
            _fill(settings, folder, shards, missing, teacher, skipped, console)
        _end_behind(folder, len(shards))
        return _told(folder, len(shards), console)


def _there(source: Path, images_dir: Path, skipped: SkipLog) -> Iterator[_Described]:
    # Items without a description are told of already, picture by picture.
    for image in read_train_metadata(source, SkipLog()):
        path, problem = find_picture(images_dir, image.image_name)
        if problem:
            skipped.add(file=path, where=image.where, key=image.image_name, reason=problem)
        else:
            yield _Described(image, path)


def _known(settings: DescribeSettings) -> dict[str, str]:
    return {
        "--model": public_name(settings.model),
        "--precision": choose_precision(settings.precision, choose_device(settings.device)),
        "--top_logits": str(settings.top_logits),
        "--shard_size": str(settings.shard_size),
        "the prompt of distill": load_prompts(settings.prompts).distill,
    }


def _clear_or_refuse(folder: Path, identity: dict[str, str], overwrite: bool) -> None:
    """Another run's store is replaced if that is wanted."""
    try:
        _refuse_others(folder, identity)
    except OutputError:
        if not overwrite:
            raise
        for path in (folder / STORE_FILE, *shard_files(folder)):
            remove_file(path)


def _refuse_others(folder: Path, identity: dict[str, str]) -> None:
    try:
        known = read_store(folder)["identity"]
    except InputError:
        return
    different = differences(known, identity, identity)
    if different:
        raise OutputError(
            f"the folder holds probabilities of another model or other settings: {different}",
            where=str(folder),
            remedy="Use the same ones, another --logits_dir, or --overwrite.",
        )


def _end_behind(folder: Path, shards: int) -> None:
    """Let the store hold so many shards and no others: of fewer descriptions than before, some are left over."""
    about = read_store(folder)
    if about["shards"] != shards:
        write_json(folder / STORE_FILE, {**about, "shards": shards})
    for path in shard_files(folder):
        if int(path.stem) >= shards:
            remove_file(path)


def _whole(folder: Path, number: int, shard: Rows[_Described]) -> bool:
    """Whether a shard is there and holds these descriptions (or fewer: unreadable pictures are left out)."""
    index = shard_index(folder, number)
    if index is None:
        return False
    wanted = {one.mark for one in shard}
    found = {(image["image_name"], image["text"]) for image in index["images"]}
    return found <= wanted and sorted(index.get("left_out", [])) == sorted(name for name, _ in wanted - found)


def _fill(
    settings: DescribeSettings,
    folder: Path,
    shards: Rows[Rows[_Described]],
    missing: Rows[int],
    teacher: Teacher,
    skipped: SkipLog,
    console: Console,
) -> None:
    base = teacher.base()
    vocabulary = int(base.model.lm_head.weight.shape[0])
    k = int(settings.top_logits or 0)
    if k >= vocabulary:
        raise ConfigError(f"the model's vocabulary has only {vocabulary:,} tokens", where=f"--top_logits {k}")
    identity = {**_known(settings), "content of --model": weights_mark(base.model)}
    _clear_or_refuse(folder, identity, settings.overwrite)
    _check_room(folder, sum(len(shards[number]) for number in missing) * 150 * bytes_per_token(k, vocabulary))
    about = {"format": FORMAT, "k": k, "vocabulary": vocabulary, "shards": len(shards), "identity": identity}
    write_json(folder / STORE_FILE, about)
    builder = SequenceBuilder(base.tokenizer, load_prompts(settings.prompts), base.family.views)
    seeing = FullTokenModel(base)
    total = sum(len(shards[number]) for number in missing)
    with Interrupts(console.warn) as interrupts, console.progress("Storing probabilities", total) as bar:
        for number in missing:
            rows: list[tuple[str, str, TokenLogits]] = []
            ordered = _in_order(shards[number], settings, base)
            reading = read_ahead(in_batches(ordered, settings.batch_size), settings.num_workers)
            for read in reading:
                batch = readable(read, skipped)
                if not batch:
                    continue
                sequences = [builder.distill(one.image.title, one.image.description) for one, _ in batch]
                found = top_logits_of(seeing, base.model.lm_head, builder.pad_id, sequences, [i for _, i in batch], k)
                rows += [(*one.mark, row) for (one, _), row in zip(batch, found, strict=True)]
                bar.advance(len(batch))
                if interrupts.requested:
                    reading.close()
                    console.info("The probabilities of whole shards are kept; the same command goes on.")
                    raise KeyboardInterrupt
            done = {name for name, _, _ in rows}
            left_out = [one.image_name for one in shards[number] if one.image_name not in done]
            write_shard(folder, number, rows, no_tokens(k, vocabulary), left_out)


def _in_order(shard: Rows[_Described], settings: DescribeSettings, base: BaseModel) -> Rows[_Described]:
    """Neighbours in length, longest first: image tokens are most of it."""

    def length(one: _Described) -> tuple[int, int]:
        size = picture_size(one.path)
        return (0 if size is None else image_token_count(base.model.config, size)), len(one.image.description)

    return sorted(shard, key=length, reverse=True) if settings.group_by_length else shard


def _check_room(folder: Path, needed: int) -> None:
    """A full disk after hours is told before them; descriptions have some 120 tokens."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise OutputError(
            f"the probabilities need about {needed / 1e9:.1f} GB and {free / 1e9:.1f} GB are free",
            where=str(folder),
            remedy="Lower --top_logits, or choose another --logits_dir.",
        )


def _told(folder: Path, shards: int, console: Console) -> dict[str, Any]:
    about = read_store(folder)
    indices = [index for index in (shard_index(folder, number) for number in range(shards)) if index is not None]
    tokens = sum(image["tokens"] for image in chain.from_iterable(index["images"] for index in indices))
    size = sum(index["bytes"] for index in indices)
    per_token = bytes_per_token(about["k"], about["vocabulary"])
    console.info(f"Teacher's probabilities: {tokens:,} tokens, {per_token} bytes per token, {size / 1e6:.1f} MB.")
    descriptions = sum(len(index["images"]) for index in indices)
    return {
        "folder": str(folder),
        "k": about["k"],
        "descriptions": descriptions,
        "tokens": tokens,
        "bytes_per_token": per_token,
        "bytes": size,
    }
