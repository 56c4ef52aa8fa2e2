"""Descriptions into the metadata: every other byte of the file stays as it is, and the file is whole at any time."""

from __future__ import annotations

import mmap
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import IO

from lavic.archives import open_text_maybe_zipped
from lavic.describe.sides import Side
from lavic.describe.spans import Style, object_members, style_of, with_member
from lavic.errors import InputError
from lavic.files import atomic_path, output_error
from lavic.formats import DESCRIPTION_KEY, DESCRIPTIONS_KEY
from lavic.rows import parse_row, text_problem

_CHUNK = 4 * 2**20
_BEYOND_ASCII = re.compile(rb"[\x80-\xff]")
_ESCAPED = re.compile(rb"\\u[0-9a-fA-F]{4}")
#: Levels of the braces: the file, an item, its descriptions.
_ITEM, _TEXTS = 2, 3


def merge(side: Side, texts: Mapping[str, Mapping[str, str]]) -> int:
    """Put descriptions where pictures have none.

    Args:
        side: the file; if it is packed, the unpacked one beside it is written.
        texts: home of pictures (``Picture.home``) -> image_name -> description, all usable, in the order in which new
            keys shall stand; those of pictures that have one are passed over.

    Returns:
        How many found their place.

    Raises:
        InputError: the file changed so that it cannot be used.
        OutputError: it cannot be written.
    """
    with _bytes_of(side) as data, atomic_path(side.target) as part, part.open("wb") as stream:
        utf8 = bool(_BEYOND_ASCII.search(data)) or not _ESCAPED.search(data)
        style = style_of(data, utf8=utf8)
        try:
            if side.name == "train":
                count = _merge_items(data, stream, style, texts)
            else:
                count = _merge_rows(data, stream, style, texts.get("", {}))
        except ValueError as error:
            raise InputError(f"the file changed while it was read ({error})", where=str(side.source)) from error
        _keep_mode(side, stream)
    return count


def _keep_mode(side: Side, stream: IO[bytes]) -> None:
    """A rewritten file may be read by whom the old one could be."""
    if side.target.exists():
        shutil.copymode(side.target, stream.name)


@contextmanager
def _bytes_of(side: Side) -> Iterator[mmap.mmap]:
    """A file's unpacked bytes, mapped; what an archive holds goes to a file without a name, which a kill removes."""
    with ExitStack() as stack:
        file: IO[bytes] = stack.enter_context(open_text_maybe_zipped(side.source))
        if side.source != side.target:
            try:
                unpacked = stack.enter_context(tempfile.TemporaryFile(dir=side.target.parent))
                shutil.copyfileobj(file, unpacked, _CHUNK)
                unpacked.flush()
            except OSError as error:
                raise output_error(side.target, error) from error
            file = unpacked
        yield stack.enter_context(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def _merge_items(data: mmap.mmap, stream: IO[bytes], style: Style, texts: Mapping[str, Mapping[str, str]]) -> int:
    rest, done, count = dict(texts), 0, 0
    for member in object_members(data, data.find(b"{")):
        # Of items with the same key the first object counts, as for the readers.
        if member.key not in rest or data[member.start : member.start + 1] != b"{":
            continue
        item, added = _item_with(data[member.start : member.end], rest.pop(member.key), style)
        _copy(data, done, member.start, stream)
        stream.write(item)
        done, count = member.end, count + added
    _copy(data, done, len(data), stream)
    return count


def _item_with(item: bytes, texts: Mapping[str, str], style: Style) -> tuple[bytes, int]:
    """An item with the texts of those of its pictures that have none, and how many those are."""
    value = next((member for member in object_members(item, 0) if member.key == DESCRIPTIONS_KEY), None)
    if value is None or item[value.start : value.start + 1] != b"{":
        new = style.dump(texts, _ITEM)
        return with_member(item, (0, len(item)), DESCRIPTIONS_KEY, new, style, _ITEM), len(texts)
    known, count = item[value.start : value.end], 0
    for image_name, text in texts.items():
        if not _has_text(known, image_name):
            known = with_member(known, (0, len(known)), image_name, style.dump(text, _TEXTS), style, _TEXTS)
            count += 1
    return item[: value.start] + known + item[value.end :], count


def _has_text(known: bytes, image_name: str) -> bool:
    for member in object_members(known, 0):
        if member.key == image_name:
            row, _, _ = parse_row(b'{"text": ' + known[member.start : member.end] + b"}")
            return row is not None and not text_problem(row["text"])
    return False


def _merge_rows(data: mmap.mmap, stream: IO[bytes], style: Style, texts: Mapping[str, str]) -> int:
    count = 0
    while line := data.readline():
        row, _, _ = parse_row(line.removeprefix(b"\xef\xbb\xbf"))
        name = row.get("image_name") if row else None
        if row and isinstance(name, str) and name in texts and text_problem(row.get(DESCRIPTION_KEY)):
            start, end = line.find(b"{"), line.rfind(b"}") + 1
            changed = with_member(line, (start, end), DESCRIPTION_KEY, style.dump(texts[name], 1), style, 1)
            line = line[:start] + changed + line[end:]
            count += 1
        stream.write(line)
    return count


def _copy(data: mmap.mmap, start: int, end: int, stream: IO[bytes]) -> None:
    for place in range(start, end, _CHUNK):
        stream.write(data[place : min(end, place + _CHUNK)])
