"""The item store: visual tokens on disk, mapped and not loaded: a row a picture, or (all image tokens) a row a token.

A folder holds ``tokens.safetensors`` (one tensor ``tokens`` [rows, V, D], which any program with safetensors reads),
``ledger.jsonl`` (which row belongs to which picture) and ``store.json`` (what made them). The ledger decides what is
there: the tokens of a line were on the disk before it was written. docs/item-store.md says why it is so.
"""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Sequence as Rows
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lavic.embed.config import ALL, FIVE
from lavic.embed.identity import adapter_mark, model_marks, what_differs
from lavic.embed.ledger import Ledger, read_ledger
from lavic.errors import InputError
from lavic.files import read_json
from lavic.model.load import TINY, BaseModel

STORE_FILE, TOKENS_FILE = "store.json", "tokens.safetensors"
KIND, FORMAT = "lavic item store", 1
#: Before the first row: rows start at a page's start, and the header can be written again in its place.
HEADER_BYTES = 4096
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
_SAFETENSORS_NAMES = {"bf16": "BF16", "fp16": "F16", "fp32": "F32"}
# numpy knows no bf16: tokens are read as whole numbers of their size, and looked at as what they are afterwards.
_RAW: dict[str, np.dtype[Any]] = {"bf16": np.dtype("<i2"), "fp16": np.dtype("<i2"), "fp32": np.dtype("<i4")}
_DAMAGED = "Copy the store again, or make it anew with lavic embed --overwrite."


def row_bytes(about: Mapping[str, Any]) -> int:
    """What one row takes in the tokens' file."""
    return int(about["views"]) * int(about["dim"]) * _RAW[about["dtype"]].itemsize


def header_bytes(about: Mapping[str, Any], rows: int) -> bytes:
    """The first ``HEADER_BYTES`` of a safetensors file with ``rows`` rows; JSON allows the spaces that fill it."""
    entry = {
        "dtype": _SAFETENSORS_NAMES[about["dtype"]],
        "shape": [rows, about["views"], about["dim"]],
        "data_offsets": [0, rows * row_bytes(about)],
    }
    text = json.dumps({"__metadata__": {"format": "pt", "kind": KIND}, "tokens": entry}, separators=(",", ":"))
    room = HEADER_BYTES - 8
    return room.to_bytes(8, "little") + text.encode("ascii").ljust(room)


def read_about(folder: Path) -> dict[str, Any]:
    """``store.json``.

    Raises:
        InputError: it is not there, or of another kind.
    """
    try:
        about = read_json(folder / STORE_FILE)
    except InputError as error:
        if not isinstance(error.__cause__, FileNotFoundError | NotADirectoryError):
            raise
        problem = "there is no item store here" if folder.is_dir() else "there is no such folder"
        remedy = f"Make one with lavic embed --output_dir {shlex.quote(str(folder))}."
        raise InputError(problem, where=str(folder), remedy=remedy) from error
    if not isinstance(about, dict) or about.get("kind") != KIND:
        raise InputError("this is not what describes an item store", where=str(folder / STORE_FILE))
    if about.get("format") != FORMAT:
        raise InputError(
            f"the item store has the format {about.get('format')}, this lavic reads {FORMAT}",
            where=str(folder),
            remedy="Read it with the lavic that wrote it, or make it anew with lavic embed --overwrite.",
        )
    about.setdefault("image_tokens", FIVE)
    try:
        _check_about(about)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError("is damaged", where=str(folder / STORE_FILE), remedy=_DAMAGED) from error
    return about


def _check_about(about: Mapping[str, Any]) -> None:
    if row_bytes(about) <= 0 or about["precision"] not in DTYPES or not about["model"]["mark"]:
        raise ValueError
    if about["adapter"] is not None and not about["adapter"]["fingerprint"]:
        raise ValueError
    if {"view_size", "pixel_mean", "pixel_std"} - about.keys():
        raise ValueError


class ItemStore:
    """Reads a store. Costs what the ledger takes; tokens are mapped, and read from the disk when asked for.

    A store that is being added to can be read at the same time; what came after it was opened is not seen.

    Attributes:
        views: V, visual tokens of a row: 1 where all image tokens are stored.
        dim: D.
        dtype: of the tokens.
        about: what ``store.json`` says.
        unfinished: whether the last run that added to it was stopped: the same ``lavic embed`` would go on.

    Raises:
        InputError: the folder holds no store, or a part of it is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self.about: Mapping[str, Any] = MappingProxyType(read_about(self.folder))
        self.views, self.dim = int(self.about["views"]), int(self.about["dim"])
        self.dtype = DTYPES[self.about["dtype"]]
        ledger = read_ledger(self.folder)
        self.unfinished = ledger.run is not None or ledger.length == 0
        self._rows = _rows_of_items(ledger)
        stored = ledger.pictures.values() if self.all_image_tokens else ()
        self._lengths = {each.row: each.rows for each in stored}
        self._marks = {each.row: each.mark for each in ledger.pictures.values()}
        # Of an item's pictures, the first one's reason.
        bad = {item_id: reason for (item_id, _), reason in reversed(ledger.bad.items())}
        self._missing = {item_id: bad[item_id] for item_id, _ in ledger.bad if item_id not in self._rows}
        self._data = self._mapped(ledger.rows)

    def _mapped(self, rows: int) -> NDArray[Any]:
        """[rows, V, D] whole numbers."""
        raw, shape = _RAW[self.about["dtype"]], (rows, self.views, self.dim)
        if rows == 0:
            return np.empty(shape, raw)
        path = self.folder / TOKENS_FILE
        try:
            if path.stat().st_size < HEADER_BYTES + rows * row_bytes(self.about):
                problem = f"holds fewer than the {rows:,} rows of the ledger"
                raise InputError(problem, where=str(path), remedy=_DAMAGED)
            return np.asarray(np.memmap(path, raw, "r", HEADER_BYTES, shape))
        except OSError as error:
            raise InputError(f"cannot be read ({error.strerror})", where=str(path), remedy=_DAMAGED) from error

    def __reduce__(self) -> tuple[type[ItemStore], tuple[Path]]:
        # To another process goes the folder's name: pickling the map would send every token.
        return type(self), (self.folder,)

    def __len__(self) -> int:
        """Items that have tokens."""
        return len(self._rows)

    def __contains__(self, item_id: object) -> bool:
        return item_id in self._rows

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def images_of(self, item_id: str) -> int:
        """How many pictures of an item are stored; KeyError if it has none."""
        return len(self._rows[item_id])

    @property
    def all_image_tokens(self) -> bool:
        """Whether pictures have all image tokens of the checkpoint's own views, and not one a view."""
        return bool(self.about["image_tokens"] == ALL)

    def tokens_of(self, item_id: str, image: int = 0) -> int:
        """How many visual tokens a picture has; KeyError as ``tokens``."""
        return self.views * self._lengths.get(self._row(item_id, image), 1)

    @property
    def missing(self) -> Mapping[str, str]:
        """Item ID -> why it has no tokens, of the items that were asked for."""
        return MappingProxyType(self._missing)

    def mark_of(self, item_ids: Iterable[str], images: int = 1) -> str:
        """16 hex digits that change with what made the store and with the pictures that some items have in it.

        Other items do not count: a store may grow while a run that uses it is stopped.

        Args:
            images: how many pictures of each item count, as they are shown; of an item that is not stored, that.
        """
        made_by = {name: value for name, value in self.about.items() if name != "versions"}
        digest = hashlib.blake2b(json.dumps(made_by, sort_keys=True).encode(), digest_size=8)
        for item_id in sorted(set(item_ids)):
            marks = [self._marks[row] for row in self._rows.get(item_id, ())[:images]]
            digest.update(json.dumps([item_id, marks]).encode())
        return digest.hexdigest()

    def tokens(self, item_ids: Rows[str], image: int = 0) -> Tensor:
        """The visual tokens of some items, copied from the disk.

        Args:
            image: which of each item's stored pictures, counted from 0 in the order of their numbers.

        Returns:
            [n, V, D] in the store's dtype; n are the items, or all their image tokens behind each other, V being 1.

        Raises:
            KeyError: an item has no tokens, or fewer pictures than that.
        """
        rows = np.fromiter((self._row(item_id, image) for item_id in item_ids), np.intp, len(item_ids))
        if self._lengths:
            runs = [np.arange(row, row + self._lengths[row]) for row in rows.tolist()]
            rows = np.concatenate([rows[:0], *runs])
        return torch.from_numpy(self._data[rows]).view(self.dtype)

    def _row(self, item_id: str, image: int) -> int:
        rows = self._rows[item_id]
        if not 0 <= image < len(rows):
            raise KeyError(f"{item_id}: it has {len(rows)} pictures, not one of the number {image}")
        return rows[image]


def _rows_of_items(ledger: Ledger) -> dict[str, tuple[int, ...]]:
    """Item ID -> the rows of its pictures, in the order of their numbers."""
    rows: dict[str, tuple[int, ...]] = {}
    several: dict[str, dict[int, int]] = {}
    for (item_id, _), stored in ledger.pictures.items():
        if item_id in rows:
            several[item_id] = {}
        rows[item_id] = (stored.row,)
    # Apart from the others: a dict for each of 81,000 items would double the time of opening.
    for (item_id, number), stored in ledger.pictures.items() if several else ():
        if item_id in several:
            several[item_id][number] = stored.row
    return rows | {item_id: tuple(found[number] for number in sorted(found)) for item_id, found in several.items()}


def check_store(
    store: ItemStore,
    base: BaseModel,
    adapter: Path | None,
    *,
    where: str,
    data: Mapping[str, object] = MappingProxyType({}),
) -> None:
    """See that a store's tokens are those that this model would make.

    Args:
        base: without an adapter merged into its vision side; LoRA on its language model does not matter.
        adapter: folder of the stage-1 adapter; None does not compare it: the caller did not name one.
        where: named in the message: a flag, or the store's folder.
        data: flags by their names with which ``lavic embed`` would find the same items and pictures; None is `none`.

    Raises:
        InputError: made by another model, adapter or views.
        AdapterError: the folder holds no stage-1 adapter.
    """
    wanted = model_marks(base, store.about["image_tokens"])
    if adapter is not None:
        wanted["adapter"] = adapter_mark(adapter)
    different = what_differs(store.about, wanted)
    if not different:
        return
    made_with = {"model": TINY if base.name == TINY else base.source, "adapter": adapter}
    flags: dict[str, object] = {name: value for name, value in made_with.items() if value is not None}
    flags |= {name: "none" if value is None else value for name, value in data.items()}
    flags["output_dir"] = store.folder
    given = " ".join(f"--{name} {shlex.quote(str(value))}" for name, value in flags.items())
    if store.all_image_tokens:
        given += f" --image_tokens {ALL}"
    raise InputError(
        f"the store was made with {different}",
        where=where,
        remedy=f"Give what it was made with, or make it anew: lavic embed {given} --overwrite",
    )
