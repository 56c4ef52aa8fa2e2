"""The members of one huge JSON object, one after another, without holding the object."""

from __future__ import annotations

import codecs
import io
import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ijson

from lavic.archives import open_text_maybe_zipped
from lavic.errors import InputError

# The published rows nest 3 levels below the item; this only has to stop files made to exhaust the stack.
MAX_DEPTH = 32

_DRAIN_BYTES = 2**20
_BOM = b"\xef\xbb\xbf"
_START = ("start_map", "start_array")
_END = ("end_map", "end_array")
# Besides its own errors, ijson's Python parser lets those of the json module and of int() through.
_PARSE_ERRORS = (ijson.JSONError, ValueError)

# An escape of half a surrogate pair, "\ud83d", is JSON, but no character: one parser of ijson makes a "?" of it,
# or an error of the whole file, another hands it on. So the escapes are exchanged before they see them.
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_ESCAPE = re.compile(
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"  # a whole pair
    rb"|\\u(?P<half>[dD][89a-fA-F][0-9a-fA-F]{2})"
    rb"|\\."
)
# What an escape consists of: after any other byte none is under way.
_ESCAPE_BYTES = b"\\u0123456789abcdefABCDEF"
# Longer than any escape; more of such bytes in a row is no text.
_MAX_WAITING = 2**20


@dataclass(frozen=True)
class Member:
    """One ``key: value`` of the object; ``repeated`` are keys that stood twice inside, the first kept."""

    key: str
    value: Any
    repeated: tuple[str, ...] = ()


def stream_members(path: Path) -> Iterator[Member]:
    """Read a file that holds one JSON object, plain or zipped, member by member, in file order.

    A key that stands twice in the object itself is given twice.

    Raises:
        InputError: the file cannot be opened, is not UTF-8, not JSON, ends too early, nests too deeply or
            holds something else than one object. Members before the place of trouble have been given.
    """
    with open_text_maybe_zipped(path) as stream:
        halves = _Halves()
        source = _Utf8Source(stream, path, halves)
        place = _Place()
        try:
            # use_float: without it the C parser makes a Decimal or int of each number, and one that neither
            # takes (1E99999999999999999999, 5,000 digits) ends the process with a segmentation fault.
            yield from _members(halves.restored(ijson.basic_parse(source, use_float=True)), place, path)
        except _PARSE_ERRORS as error:
            if source.trouble is not None:
                raise source.trouble from None
            # An archive tells only at its end that it is damaged, which explains more than the text does.
            while stream.read(_DRAIN_BYTES):
                pass
            raise _explain(place, source.lines if source.at_end else None, path) from error
        if source.trouble is not None:
            raise source.trouble


@dataclass
class _Place:
    """How far reading has come, for the sentence about an error."""

    key: str | None = None
    inside: bool = False
    closed: bool = False

    def __str__(self) -> str:
        if self.key is None:
            return "before its first item"
        return f"{'inside' if self.inside else 'after'} item {self.key[:80]}"


class _Halves:
    """Half surrogate pairs travel through the parser as a text that no file can know, and become what they were."""

    def __init__(self) -> None:
        self._sign = f"<half {secrets.token_hex(16)} "
        self._found = re.compile(re.escape(self._sign) + "([0-9a-fA-F]{4})>")
        self._waiting = b""
        self._any = False

    def hidden(self, chunk: bytes) -> bytes:
        """The bytes to parse for those read; some may be kept back for the next call, all come out with b""."""
        data = self._waiting + chunk
        ready = len(data.rstrip(_ESCAPE_BYTES)) if chunk else len(data)
        if len(data) - ready > _MAX_WAITING:
            ready = len(data)
        data, self._waiting = data[:ready], data[ready:]
        return _ESCAPE.sub(self._hide, data) if _SURROGATE.search(data) else data

    def _hide(self, escape: re.Match[bytes]) -> bytes:
        half = escape["half"]
        if half is None:
            return escape[0]
        self._any = True
        return self._sign.encode() + half + b">"

    def restored(self, events: Iterator[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
        """The parser's events with the texts as they stood in the file."""
        for event, value in events:
            if self._any and isinstance(value, str) and self._sign in value:
                value = self._found.sub(lambda sign: chr(int(sign[1], 16)), value)
            yield event, value


class _Utf8Source:
    """Hands bytes on after looking whether they are UTF-8, which the parser reports without a place.

    An error of the file is kept for the reader and looks like the end to the parser: one that is raised through
    ijson's Python parser leaves it half-way, and it complains on its own when it is collected.
    """

    def __init__(self, stream: io.BufferedReader, path: Path, halves: _Halves) -> None:
        self._stream = stream
        self._path = path
        self._halves = halves
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._offset = 0
        self.lines = 1
        self.at_end = False
        self.trouble: InputError | None = None

    def read(self, size: int = -1) -> bytes:
        if size == 0:
            return b""
        ready = b""
        try:
            while not ready and not self.at_end:  # an empty answer would mean the end
                ready = self._halves.hidden(self._read(size))
        except InputError as error:
            self.trouble, self.at_end = error, True
        return ready

    def _read(self, size: int) -> bytes:
        chunk = self._stream.read(size)
        self.at_end = not chunk
        self.lines += chunk.count(b"\n")
        waiting = len(self._decoder.getstate()[0])
        try:
            self._decoder.decode(chunk)
        except UnicodeDecodeError as error:
            byte = self._offset - waiting + error.start
            raise InputError("the file is not UTF-8 text", where=f"{self._path}, byte {byte}") from error
        if self._offset == 0 and chunk.startswith(_BOM):
            # Spaces mean nothing to the parser.
            chunk = b"   " + chunk[len(_BOM) :]
        self._offset += len(chunk)
        return chunk


def _members(events: Iterator[tuple[str, Any]], place: _Place, path: Path) -> Iterator[Member]:
    event, value = next(events, ("nothing", None))
    if event != "start_map":
        kind = {"start_array": "a list", "string": "a text", "null": "null", "boolean": "true or false"}
        problem = f"the file holds {kind.get(event, 'a number')}, not one object of ID: item"
        raise InputError(problem, where=str(path))
    for event, value in events:
        if event == "end_map":
            place.closed = True
        else:
            place.key, place.inside = value, True
            event, value = next(events)
            built, repeated = _build(event, value, events, place, path)
            place.inside = False
            yield Member(place.key, built, tuple(repeated))


def _build(
    event: str, value: Any, events: Iterator[tuple[str, Any]], place: _Place, path: Path
) -> tuple[Any, list[str]]:
    """Put one value together from its events; a loop, as recursion would end in a RecursionError."""
    repeated: list[str] = []
    if event not in _START:
        return value, repeated
    stack: list[Any] = [{} if event == "start_map" else []]
    keys = [""]
    for event, value in events:
        if event == "map_key":
            keys[-1] = value
            continue
        if event in _START:
            if len(stack) >= MAX_DEPTH:
                problem = f"the JSON nests deeper than {MAX_DEPTH} levels {place}"
                raise InputError(problem, where=str(path))
            stack.append({} if event == "start_map" else [])
            keys.append("")
            continue
        done = value
        if event in _END:
            done = stack.pop()
            keys.pop()
            if not stack:
                return done, repeated
        if isinstance(stack[-1], list):
            stack[-1].append(done)
        elif keys[-1] in stack[-1]:
            repeated.append(keys[-1])
        else:
            stack[-1][keys[-1]] = done
    raise AssertionError("the parser ended without an error inside a value")


def _explain(place: _Place, last_line: int | None, path: Path) -> InputError:
    if place.closed:
        problem = "more text follows after the object's closing brace; one object of ID: item is expected"
        return InputError(problem, where=str(path))
    if last_line is not None:
        remedy = "It looks half-copied: copy it again."
        return InputError(f"the file ends {place}", where=f"{path}, line {last_line}", remedy=remedy)
    return InputError(f"the file is not valid JSON {place}", where=str(path))
