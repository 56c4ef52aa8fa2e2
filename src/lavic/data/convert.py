"""A catalogue of products and photographs -> the public format, split into training and validation items."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lavic.data.outputs import CONVERTED_MARKER, prepare_conversion
from lavic.errors import ConfigError, InputError, NothingLeftError, OutputError
from lavic.files import FolderLock, atomic_path, open_regular, safe_join, write_json
from lavic.formats import Item, ItemImage, title_of, write_train_metadata, write_valid_metadata
from lavic.layout import TRAIN_IMAGES, TRAIN_METADATA, VALID_IMAGES, VALID_METADATA
from lavic.rows import PublicRow, check_row, name_problem, read_rows, surrogate_problem, text_problem
from lavic.skipped import SkipLog

TextSource = Literal["descriptions", "captions", "both"]


@dataclass(frozen=True)
class ConvertResult:
    """What a conversion wrote.

    Attributes:
        without_text: pictures left out because neither a caption nor a seller's description goes with them.
        skipped: rows and pictures that could not be used, listed in ``skipped.jsonl``.
    """

    output_dir: Path
    train_items: int
    train_images: int
    valid_items: int
    valid_images: int
    without_text: int
    skipped: int


class ProductRow(PublicRow):
    """A line of ``products.jsonl``."""

    id: str
    images: list[str]
    title: str | None = None
    description: str | None = None


class CaptionRow(PublicRow):
    """A line of ``captions.jsonl``."""

    image: str
    caption: Any


@dataclass(frozen=True)
class _Product:
    """A product with those of its pictures that can be used: image_name -> image_description."""

    item_id: str
    title: str
    descriptions: dict[str, str]


def convert_catalogue(
    source_dir: Path,
    output_dir: Path,
    seed: int,
    valid_share: float = 0.25,
    text: TextSource = "both",
    *,
    overwrite: bool = False,
) -> ConvertResult:
    """Bring a catalogue into the public format.

    A picture's description is its caption, else the description of its product. The split is by product, so
    that no picture of a validation product was trained on; it depends on the seed and the set of IDs only.

    Args:
        source_dir: holds ``products.jsonl``, ``images/`` and, unless only descriptions are wanted,
            ``captions.jsonl``.
        output_dir: gets ``item2meta_train.json``, ``item2meta_valid.jsonl``, ``train_images/``,
            ``valid_images/`` and ``skipped.jsonl``; the pictures are copied byte for byte.
        seed: chooses the validation products.
        valid_share: of the products; each side gets at least one.
        text: which of the two texts to use.
        overwrite: replace an earlier conversion.

    Raises:
        InputError: a source file cannot be used.
        NothingLeftError: fewer than two products have a usable picture with a text.
        ConfigError: ``valid_share`` is not between 0 and 1.
        OutputError: the output folder holds something else, or cannot be written.
    """
    source_dir, output_dir = Path(source_dir), Path(output_dir)
    if not 0 < valid_share < 1:
        raise ConfigError(f"{valid_share} is not a share between 0 and 1", where="--valid-share")
    if not source_dir.is_dir():
        raise InputError("there is no such folder", where=str(source_dir))
    if output_dir.resolve() == source_dir.resolve():
        raise OutputError("the output folder is the source itself", where=str(output_dir))
    with FolderLock(output_dir):
        prepare_conversion(output_dir, overwrite=overwrite)
        settings = {"source_dir": str(source_dir), "seed": seed, "valid_share": valid_share, "text": text}
        write_json(output_dir / CONVERTED_MARKER, settings)
        with SkipLog(output_dir / "skipped.jsonl") as skipped:
            return _convert(source_dir, output_dir, seed, valid_share, text, skipped)


def _convert(
    source_dir: Path, output_dir: Path, seed: int, valid_share: float, text: TextSource, skipped: SkipLog
) -> ConvertResult:
    captions = {} if text == "descriptions" else _read_captions(source_dir, text, skipped)
    products, without_text = _usable(source_dir, captions, text, skipped)
    if len(products) < 2:
        problem = f"products with a usable picture and a text: {len(products)}; a split needs two"
        raise NothingLeftError(problem, where=str(source_dir), remedy=f"See {output_dir / 'skipped.jsonl'}.")
    valid_ids = _choose_valid({product.item_id for product in products}, seed, valid_share)
    train = [product for product in products if product.item_id not in valid_ids]
    valid = [product for product in products if product.item_id in valid_ids]
    images = source_dir / "images"
    train_images = _copy_images(train, images, output_dir / TRAIN_IMAGES)
    valid_images = _copy_images(valid, images, output_dir / VALID_IMAGES)
    # The metadata last: where they are, every picture they name is.
    write_train_metadata(
        output_dir / TRAIN_METADATA,
        (Item(product.item_id, product.title, descriptions=product.descriptions) for product in train),
    )
    write_valid_metadata(
        output_dir / VALID_METADATA,
        (
            ItemImage(product.item_id, name, product.title, description)
            for product in valid
            for name, description in product.descriptions.items()
        ),
    )
    return ConvertResult(output_dir, len(train), train_images, len(valid), valid_images, without_text, skipped.count)


def _read_captions(source_dir: Path, text: TextSource, skipped: SkipLog) -> dict[str, str]:
    path = source_dir / "captions.jsonl"
    if text == "both" and not path.exists():
        return {}  # a catalogue without captions is whole all the same
    captions: dict[str, str] = {}
    for number, value in read_rows(path, skipped):
        row, key, reason = check_row(CaptionRow, value)
        if row is not None:
            key, reason = "caption", text_problem(row.caption)
            if row.image in captions:
                key, reason = "image", "the image has a caption already; the first is kept"
        if row is None or reason:
            skipped.add(file=path, where=f"line {number}", key=key, reason=reason)
        else:
            captions[row.image] = row.caption
    return captions


def _read_products(path: Path, skipped: SkipLog) -> Iterator[tuple[ProductRow, str]]:
    """The products that can be used and their places; an ID, and so a file name, is taken once."""
    seen: set[str] = set()
    for number, value in read_rows(path, skipped):
        where = f"line {number}"
        row, key, reason = check_row(ProductRow, value)
        if row is not None:
            key, reason = "id", name_problem(row.id)
            if not reason and row.id in seen:
                reason = "the product stands twice; the first is kept"
            if not reason:
                key, reason = "title", surrogate_problem(row.title or "")
        if row is None or reason:
            skipped.add(file=path, where=where, key=key, reason=reason)
            continue
        seen.add(row.id)
        yield row, where


def _usable(
    source_dir: Path, captions: dict[str, str], text: TextSource, skipped: SkipLog
) -> tuple[list[_Product], int]:
    """The products with at least one picture that has a text, and how many pictures have none."""
    path = source_dir / "products.jsonl"
    products = []
    without_text = 0
    taken: set[str] = set()
    for row, where in _read_products(path, skipped):
        descriptions = {}
        for name in row.images:
            reason = _image_problem(source_dir / "images", name, taken)
            if reason:
                skipped.add(file=path, where=where, key=name, reason=reason)
                continue
            taken.add(name)
            seller_text = row.description if text != "captions" else None
            description = captions.get(name) or seller_text
            if text_problem(description):
                without_text += 1
            else:
                descriptions[name] = str(description)
        if descriptions:
            title = title_of(row.title)
            products.append(_Product(row.id, title, descriptions))
    return products, without_text


def _image_problem(folder: Path, name: str, taken: set[str]) -> str:
    if name in taken:
        # Shared by two products it could stand on both sides of the split.
        return "the image belongs to an earlier product or entry"
    try:
        open_regular(safe_join(folder, name)).close()
    except InputError as error:
        return error.problem
    return ""


def _choose_valid(item_ids: set[str], seed: int, valid_share: float) -> set[str]:
    """A share of the IDs; hashed, so that it is the same on every machine and in every order of the file."""
    count = min(max(round(len(item_ids) * valid_share), 1), len(item_ids) - 1)
    order = sorted(item_ids, key=lambda item_id: hashlib.sha256(f"{seed}:{item_id}".encode()).digest())
    return set(order[:count])


def _copy_images(products: list[_Product], source: Path, target: Path) -> int:
    target.mkdir(exist_ok=True)
    names = [name for product in products for name in product.descriptions]
    for name in names:
        with open_regular(safe_join(source, name)) as stream, atomic_path(target / name) as part:
            part.write_bytes(stream.read())
    return len(names)
