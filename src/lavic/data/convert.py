"""A catalogue of products and photographs -> the public format, split into training and validation items."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

from lavic.data.outputs import EARLIER_CONVERSION, SERVED, because_of, converted, output_of
from lavic.errors import ConfigError, InputError, NothingLeftError, OutputError
from lavic.files import atomic_path, open_regular, safe_join
from lavic.formats import Item, ItemImage, title_of, write_train_metadata, write_valid_metadata
from lavic.layout import TRAIN_IMAGES, TRAIN_METADATA, VALID_IMAGES, VALID_METADATA, picture_name
from lavic.rows import PublicRow, check_row, name_problem, read_rows, surrogate_problem, text_problem
from lavic.skipped import SkipLog

TextSource = Literal["descriptions", "captions", "both"]


@dataclass(frozen=True)
class ConvertResult:
    """What a conversion wrote.

    Attributes:
        without_text: pictures with which neither a caption nor a seller's description goes: left out, or kept with an
            empty description.
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
    """A product with those of its pictures that can be used: image_name -> image_description, which may be empty."""

    item_id: str
    title: str
    descriptions: dict[str, str]

    def addressed(self, served_at: str) -> Iterator[tuple[str, str, str]]:
        """Name under which a picture will be crawled, its address, its description."""
        for number, (name, text) in enumerate(self.descriptions.items()):
            yield picture_name(self.item_id, number), f"{served_at.rstrip('/')}/{quote(name)}", text


def convert_catalogue(
    source_dir: Path,
    output_dir: Path,
    seed: int,
    valid_share: float = 0.25,
    text: TextSource = "both",
    *,
    keep_without_text: bool = False,
    served_at: str | None = None,
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
        keep_without_text: keep pictures without one, with an empty description, for a teacher to describe.
        served_at: the address of the pictures, which then all lie in ``pictures/`` and are named ``ID_i.jpg`` in the
            metadata, as crawling them will.
        overwrite: replace an earlier conversion.

    Raises:
        InputError: a source file cannot be used.
        NothingLeftError: fewer than two products have a usable picture, with a text unless those without are kept.
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
    settings = {"source_dir": str(source_dir), "seed": seed, "valid_share": valid_share, "text": text}
    settings |= {"keep_without_text": keep_without_text, "served_at": served_at}
    outputs = converted(served_at is not None)
    with output_of(output_dir, outputs, EARLIER_CONVERSION, overwrite=overwrite) as output:
        captions = {} if text == "descriptions" else _read_captions(source_dir, text, output.skipped)
        products, without_text = _usable(source_dir, captions, text, output.skipped, keep_without_text)
        if len(products) < 2:
            what = "a usable picture" if keep_without_text else "a usable picture and a text"
            problem = f"products with {what}: {len(products)}; a split needs two"
            raise NothingLeftError(problem + because_of(output.skipped), where=str(source_dir))
        valid_ids = _choose_valid({product.item_id for product in products}, seed, valid_share)
        train = [product for product in products if product.item_id not in valid_ids]
        valid = [product for product in products if product.item_id in valid_ids]
        output.begin(settings)
        pictures = _write(source_dir / "images", output_dir, train, valid, served_at)
        output.finish({})
        return ConvertResult(
            output_dir, len(train), pictures[0], len(valid), pictures[1], without_text, output.skipped.count
        )


def _write(
    images: Path, output_dir: Path, train: list[_Product], valid: list[_Product], served_at: str | None
) -> tuple[int, int]:
    """Pictures, then metadata: where they are, every picture they name is. Gives the numbers of pictures."""
    folders = (TRAIN_IMAGES, VALID_IMAGES) if served_at is None else (SERVED, SERVED)
    train_images = _copy_images(train, images, output_dir / folders[0])
    valid_images = _copy_images(valid, images, output_dir / folders[1])
    write_train_metadata(output_dir / TRAIN_METADATA, (_item(product, served_at) for product in train))
    rows = (row for product in valid for row in _valid_rows(product, served_at))
    write_valid_metadata(output_dir / VALID_METADATA, rows)
    return train_images, valid_images


def _item(product: _Product, served_at: str | None) -> Item:
    if served_at is None:
        return Item(product.item_id, product.title, descriptions=product.descriptions)
    entries = list(product.addressed(served_at))
    urls = tuple(url for _, url, _ in entries)
    return Item(product.item_id, product.title, urls, {name: text for name, _, text in entries if text})


def _valid_rows(product: _Product, served_at: str | None) -> Iterator[ItemImage]:
    if served_at is None:
        for name, text in product.descriptions.items():
            yield ItemImage(product.item_id, name, product.title, text)
    else:
        for name, url, text in product.addressed(served_at):
            yield ItemImage(product.item_id, name, product.title, text, image_url=url)


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
    source_dir: Path, captions: dict[str, str], text: TextSource, skipped: SkipLog, keep_without_text: bool
) -> tuple[list[_Product], int]:
    """The products with at least one picture that is kept, and how many pictures have no text."""
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
            if not text_problem(description):
                descriptions[name] = str(description)
                continue
            without_text += 1
            if keep_without_text:
                descriptions[name] = ""
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
