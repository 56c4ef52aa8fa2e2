"""Lines and values of untrusted JSON: one row at a time, with a reason for each that is left out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lavic.archives import open_text_maybe_zipped
from lavic.errors import InputError
from lavic.files import safe_name
from lavic.skipped import SkipLog

# The longest published row has 21 KB; a line without an end must not fill memory.
MAX_LINE_BYTES = 16 * 2**20

CANDIDATES_PREFIX = "candidates_"

REPEATED_KEY = "the key stands twice; the first is kept"

_BOM = b"\xef\xbb\xbf"
_WANTED = {
    "string_type": "text",
    "list_type": "a list",
    "dict_type": "an object",
}

Row = TypeVar("Row", bound="PublicRow")


class PublicRow(BaseModel):
    """Base of the rows of the public files: strict about the keys that lavic reads, silent about others."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)


class TrainRow(PublicRow):
    """The keys of an item in ``item2meta_train.json`` that lavic reads."""

    title: str | None = None
    images: list[Any] | None = None
    image_descriptions_llava_cleaned: dict[str, Any] | None = None


class PictureRow(PublicRow):
    """The keys of a line of ``item2meta_valid.jsonl`` that lavic reads, where it need not be described yet."""

    image_name: str
    title: str | None = None
    image: str | None = None
    image_description_llava_cleaned: Any = None


class ValidRow(PictureRow):
    """A line that training can learn from."""

    image_description_llava_cleaned: Any


class ConversationRow(PublicRow):
    """The keys of a line of a conversation file that lavic reads; ``candidates_*`` are checked apart."""

    context: str
    context_items: list[str] = Field(default_factory=list)
    gt: str = ""
    gt_items: list[str] = Field(default_factory=list)


def check_row(model: type[Row], value: dict[str, Any]) -> tuple[Row | None, str, str]:
    """A row as its model, or None with the key concerned and the reason."""
    try:
        return model.model_validate(value), "", ""
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] == "missing":
            return None, key, "the key is missing"
        wanted = _WANTED.get(first["type"], "what is expected")
        return None, key, f"the value is {json_kind(first['input'])}, not {wanted}"


def json_kind(value: object) -> str:
    """What a JSON value is, in words."""
    match value:
        case None:
            return "null"
        case bool():
            return "true or false"
        case str():
            return "text"
        case int() | float():
            return "a number"
        case dict():
            return "an object"
        case _:
            return "a list"


def name_problem(name: object) -> str:
    """Why a name from data cannot name a file, or "" if it can."""
    try:
        safe_name(name)
    except InputError as error:
        return error.problem
    return ""


def text_problem(text: object) -> str:
    """Why a value cannot be trained on as text, or "" if it can."""
    if not isinstance(text, str):
        return f"the text is {json_kind(text)}"
    if not text.strip():
        return "the text is empty"
    return surrogate_problem(text)


def surrogate_problem(text: str) -> str:
    """JSON can spell half a surrogate pair; no tokenizer and no UTF-8 file takes it."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return "the text holds half a surrogate pair"
    return ""


def picture_problem(row: PictureRow) -> tuple[str, str]:
    """Key and reason of the first thing wrong in a row whose keys have the right types; else two ""."""
    described = isinstance(row, ValidRow)
    problems = {
        "image_name": name_problem(row.image_name),
        "image_description_llava_cleaned": text_problem(row.image_description_llava_cleaned) if described else "",
        "title": surrogate_problem(row.title or ""),
    }
    return next(((key, reason) for key, reason in problems.items() if reason), ("", ""))


def conversation_problem(row: ConversationRow, value: dict[str, Any]) -> tuple[str, str]:
    """Key and reason of the first thing wrong in a row whose keys have the right types; else two ""."""
    reason = text_problem(row.context)
    if reason:
        return "context", reason
    lists: dict[str, Any] = {"context_items": row.context_items, "gt_items": row.gt_items}
    for key in value:
        if key.startswith(CANDIDATES_PREFIX):
            lists[key] = value[key]
    for key, ids in lists.items():
        if not isinstance(ids, list):
            return key, f"the value is {json_kind(ids)}, not a list"
        for item_id in ids:
            reason = name_problem(item_id)
            if reason:
                return key, reason
    return "", ""


def read_rows(path: Path, skipped: SkipLog) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line number and object of each line of a JSONL file, plain or zipped; blank lines are passed over.

    A line that is not one JSON object in UTF-8 is listed in ``skipped``; so is a key that stands twice.

    Raises:
        InputError: the file cannot be opened or is empty.
    """
    with open_text_maybe_zipped(path) as stream:
        number = 0
        while line := stream.readline(MAX_LINE_BYTES):
            number += 1
            where = f"line {number}"
            if len(line) == MAX_LINE_BYTES and not line.endswith(b"\n"):
                while line and not line.endswith(b"\n"):
                    line = stream.readline(MAX_LINE_BYTES)
                reason = f"the line is longer than {MAX_LINE_BYTES // 2**20} MiB"
                skipped.add(file=path, where=where, reason=reason)
                continue
            if number == 1:
                line = line.removeprefix(_BOM)
            if not line.strip():
                continue
            row, repeated, reason = parse_row(line)
            for key in repeated:
                skipped.add(file=path, where=where, key=key, reason=REPEATED_KEY)
            if row is None:
                skipped.add(file=path, where=where, reason=reason)
            else:
                yield number, row


def parse_row(line: bytes) -> tuple[dict[str, Any] | None, list[str], str]:
    """One line as an object, with the keys that stood twice; or None with the reason."""
    repeated: list[str] = []

    def keep_first(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        built: dict[str, Any] = {}
        for key, value in pairs:
            if key in built:
                repeated.append(key)
            else:
                built[key] = value
        return built

    try:
        row = json.loads(line.decode("utf-8"), object_pairs_hook=keep_first)
    except UnicodeDecodeError:
        return None, [], "the line is not UTF-8 text"
    except RecursionError:
        return None, [], "the line nests too deeply"
    except ValueError:  # JSONDecodeError, and integers of more than 4,300 digits
        return None, [], "the line is not valid JSON"
    if not isinstance(row, dict):
        return None, [], f"the line is {json_kind(row)}, not an object"
    return row, repeated, ""
