"""Fills the store of the teacher's probabilities: one pass over the final text of every training description.

The teacher is given the student's joined sequence with all its image tokens in the placeholders' stead, so its
probabilities stand at the very tokens that the student is trained on.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from collections.abc import Sequence as Rows
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

from PIL import Image

from lavic.console import Console
from lavic.describe.config import DescribeSettings
from lavic.describe.lengths import image_token_count, picture_size
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
    shard_index,
    text_mark,
    write_shard,
)
from lavic.errors import ConfigError, ImageError, InputError, OutputError
from lavic.files import FolderLock, output_error, safe_join, write_json
from lavic.formats import ItemImage, read_train_metadata
from lavic.images import read_image
from lavic.model.full_tokens import FullTokenModel
from lavic.model.load import BaseModel, public_name
from lavic.model.sequences import SequenceBuilder
from lavic.prompts import load_prompts
from lavic.skipped import SkipLog
from lavic.training.devices import choose_device, choose_precision
from lavic.training.identity import weights_mark
from lavic.training.interrupts import Interrupts


@dataclass(frozen=True)
class _Described:
    image: ItemImage
    path: Path


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
        images = [_Described(image, path) for image, path in _there(source, side.images_dir, skipped)]
        shards = [images[at : at + settings.shard_size] for at in range(0, len(images), settings.shard_size)]
        _clear_or_refuse(folder, _known(settings), settings.overwrite)
        # Without the file that says what the store is, nobody knows whose numbers its shards hold.
        known = (folder / STORE_FILE).exists()
        missing = [number for number, shard in enumerate(shards) if not (known and _whole(folder, number, shard))]
        if missing or not known:
            _fill(settings, folder, shards, missing, teacher, skipped, console)
        _end_behind(folder, len(shards))
        return _told(folder, len(shards), console)


def _there(source: Path, images_dir: Path, skipped: SkipLog) -> Iterator[tuple[ItemImage, Path]]:
    # Items without a description are told of already, picture by picture.
    for image in read_train_metadata(source, SkipLog()):
        try:
            path = safe_join(images_dir, image.image_name)
            problem = "" if path.exists() else "there is no such picture"
        except InputError as error:
            path, problem = images_dir, error.problem
        if problem:
            skipped.add(file=path, where=image.where, key=image.image_name, reason=problem)
        else:
            yield image, path


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
        _delete([folder / STORE_FILE, *_shard_files(folder)])


def _refuse_others(folder: Path, identity: dict[str, str]) -> None:
    try:
        known = read_store(folder)["identity"]
    except InputError:
        return
    different = [name for name, value in identity.items() if known.get(name) != value]
    if different:
        shown = ", ".join(
            f"{name} (was {known.get(name)}, is {identity[name]})" if name.startswith("--") else name
            for name in different
        )
        raise OutputError(
            f"the folder holds probabilities of another model or other settings: {shown}",
            where=str(folder),
            remedy="Use the same ones, another --logits_dir, or --overwrite.",
        )


def _end_behind(folder: Path, shards: int) -> None:
    """Let the store hold so many shards and no others: of fewer descriptions than before, some are left over."""
    about = read_store(folder)
    if about["shards"] != shards:
        write_json(folder / STORE_FILE, {**about, "shards": shards})
    _delete(path for path in _shard_files(folder) if int(path.stem) >= shards)


def _shard_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("[0-9]" * 5 + ".*") if path.suffix in (".json", ".bin"))


def _delete(paths: Iterable[Path]) -> None:
    for path in paths:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise output_error(path, error) from error


def _whole(folder: Path, number: int, shard: Rows[_Described]) -> bool:
    """Whether a shard is there and holds these descriptions (or fewer: unreadable pictures are left out)."""
    index = shard_index(folder, number)
    if index is None:
        return False
    wanted = {(one.image.image_name, text_mark(one.image.title, one.image.description)) for one in shard}
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
            for batch in _read_batches(_in_order(shards[number], settings, base), settings, skipped):
                sequences = [builder.distill(one.image.title, one.image.description) for one, _ in batch]
                found = top_logits_of(seeing, base.model.lm_head, builder.pad_id, sequences, [i for _, i in batch], k)
                names = [(one.image.image_name, text_mark(one.image.title, one.image.description)) for one, _ in batch]
                rows += [(*name, row) for name, row in zip(names, found, strict=True)]
                bar.advance(len(batch))
                if interrupts.requested:
                    console.info("The probabilities of whole shards are kept; the same command goes on.")
                    raise KeyboardInterrupt
            done = {name for name, _, _ in rows}
            left_out = [one.image.image_name for one in shards[number] if one.image.image_name not in done]
            write_shard(folder, number, rows, no_tokens(k, vocabulary), left_out)


def _in_order(shard: Rows[_Described], settings: DescribeSettings, base: BaseModel) -> Rows[_Described]:
    """Neighbours in length, longest first: image tokens are most of it."""

    def length(one: _Described) -> tuple[int, int]:
        size = picture_size(one.path)
        return (0 if size is None else image_token_count(base.model.config, size)), len(one.image.description)

    return sorted(shard, key=length, reverse=True) if settings.group_by_length else shard


def _read_batches(
    shard: Rows[_Described], settings: DescribeSettings, skipped: SkipLog
) -> Iterator[list[tuple[_Described, Image.Image]]]:
    ordered = iter(shard)
    with ThreadPoolExecutor(settings.num_workers) as pool:
        while part := list(islice(ordered, settings.batch_size)):
            batch = []
            for one, image in zip(part, pool.map(_read, part), strict=True):
                if isinstance(image, ImageError):
                    where, name = one.image.where, one.image.image_name
                    skipped.add(file=one.path, where=where, key=name, reason=image.problem)
                else:
                    batch.append((one, image))
            if batch:
                yield batch


def _read(one: _Described) -> Image.Image | ImageError:
    try:
        return read_image(one.path)
    except ImageError as error:
        return error


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
