"""Change single values inside JSON bytes and leave every other byte as it is.

Reading a file and writing it again would lose what no reader keeps: rows that cannot be used, keys that stand
twice, the spelling of numbers, line breaks. So the places of values are looked up, and new text is put there.
"""

from __future__ import annotations

import json
import mmap
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

Bytes = bytes | mmap.mmap

_TOKEN = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[{}\[\],:]', re.DOTALL)
_SPACE = re.compile(rb"[ \t\r\n]*")


@dataclass(frozen=True)
class Span:
    """Where a member of an object stands: its key, decoded, and its value's first and past-the-last byte."""

    key: str
    start: int
    end: int


def object_members(data: Bytes, start: int) -> Iterator[Span]:
    """The members of the object whose brace is at ``start``, one level deep, in order.

    Raises:
        ValueError: it is not whole JSON.
    """
    depth, key, value = 0, "", -1
    before = start
    for token in _TOKEN.finditer(data, start):
        mark = token.group()
        if mark in (b"{", b"["):
            depth += 1
        elif mark == b":" and depth == 1:
            value = _past_space(data, token.end())
        elif mark in (b"}", b"]", b",") and depth == 1:
            if value >= 0:
                # A number, true or null ends where the space before the comma begins.
                yield Span(key, value, _before_space(data, token.start()))
                value = -1
            if mark != b",":
                return
        elif mark in (b"}", b"]"):
            depth -= 1
        elif depth == 1 and value < 0 and mark[:1] == b'"':
            key = str(json.loads(mark))
        before = token.end()
    raise ValueError(f"the object ends at byte {before} without its brace")


def _past_space(data: Bytes, place: int) -> int:
    match = _SPACE.match(data, place)
    assert match is not None, "it also matches nothing"
    return match.end()


def _before_space(data: Bytes, place: int) -> int:
    while data[place - 1 : place] in (b" ", b"\t", b"\r", b"\n"):
        place -= 1
    return place


@dataclass(frozen=True)
class Style:
    """How a file writes JSON.

    Attributes:
        ascii_only: whether characters beyond ASCII are escaped.
        colon, comma: with the space behind them.
        indent: of one level, "" where objects stand on one line.
    """

    ascii_only: bool
    colon: str = ": "
    comma: str = ", "
    indent: str = ""

    def dump(self, value: str | Mapping[str, str], level: int) -> bytes:
        """A text, or an object of texts that stands ``level`` levels deep."""
        if isinstance(value, str):
            return self.text(value)
        members = [self.text(key) + self.colon.encode() + self.text(text) for key, text in value.items()]
        inner, outer = self.line(level + 1), self.line(level)
        comma = b"," + inner if self.indent else self.comma.encode()
        return b"{" + inner + comma.join(members) + outer + b"}"

    def line(self, level: int) -> bytes:
        """What stands before a member ``level`` levels deep, besides the comma."""
        return ("\n" + self.indent * level).encode() if self.indent else b""

    def text(self, text: str) -> bytes:
        """A text in its quotation marks."""
        return json.dumps(text, ensure_ascii=self.ascii_only).encode()


_FIRST = re.compile(rb'\s*\{(?P<lead>\s*)"[^"\\]*(?:\\.[^"\\]*)*"(?P<before>\s*):(?P<colon>\s*)', re.DOTALL)
_COMMA = re.compile(rb'",([ \t]*)"')


def style_of(data: Bytes, *, utf8: bool) -> Style:
    """The style of the bytes, from their first object; ``utf8``: whether characters beyond ASCII stand unescaped."""
    begin = 3 if data[:3] == b"\xef\xbb\xbf" else 0
    match = _FIRST.match(data, begin)
    if match is None:
        return Style(ascii_only=not utf8)
    lead = match["lead"]
    indent = lead[lead.rfind(b"\n") + 1 :].decode() if b"\n" in lead else ""
    comma = _COMMA.search(data, match.end())
    space = "" if indent else (comma[1].decode() if comma else " " if match["colon"] else "")
    return Style(not utf8, ":" + match["colon"].decode(), "," + space, indent)


def with_member(data: Bytes, span: tuple[int, int], key: str, value: bytes, style: Style, level: int) -> bytes:
    """An object's bytes with a member set: in the place of the old value, or behind the last member.

    Args:
        span: first byte and past-the-last byte of the object.
        level: how deep the object's members stand.
    """
    start, end = span
    members = list(object_members(data, start))
    for member in members:
        if member.key == key:
            return data[start : member.start] + value + data[member.end : end]
    name = style.text(key) + style.colon.encode() + value
    if not members:
        return b"{" + style.line(level) + name + style.line(level - 1) + b"}"
    last = members[-1].end
    comma = b"," + style.line(level) if style.indent else style.comma.encode()
    return data[start:last] + comma + name + data[last:end]
